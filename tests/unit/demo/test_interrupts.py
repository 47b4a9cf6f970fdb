"""When Ctrl-C may interrupt the demo."""

from __future__ import annotations

import os
import signal

import pytest

from channels_pg_secrets.demo.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_checkpoint(number: signal.Signals) -> None:
    """A signal interrupts nothing by itself, and is not forgotten."""
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.checkpoint()


def test_a_signal_interrupts_what_may_be_interrupted() -> None:
    """Where signals are allowed they take effect at once."""
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            os.kill(os.getpid(), signal.SIGINT)
        interrupts.ignore()
        os.kill(os.getpid(), signal.SIGINT)


def test_the_second_signal_does_not_wait() -> None:
    """Who presses Ctrl-C twice is not made to wait for the checkpoint."""
    with Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back() -> None:
    """Outside the block signals do what they did before."""
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
