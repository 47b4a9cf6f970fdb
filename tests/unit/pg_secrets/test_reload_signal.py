"""All sources ask their stores when the process is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pg_secrets import CredentialSource, refresh_all, refresh_on_signal
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsDenied
from pg_secrets.events import CredentialEvent
from pg_secrets.testing.adapter import ScriptedAdapter

FORKED = """
import os, signal, sys, threading
from pg_secrets import CredentialSource, Credentials, refresh_on_signal
from pg_secrets.testing.adapter import ScriptedAdapter

refresh_on_signal(signal.SIGUSR1)
adapter = ScriptedAdapter(Credentials(user="a", password="1"))
source = CredentialSource(adapter, ttl=3600)
source.get()
child = os.fork()
rotated = threading.Event()
source.subscribe(lambda event: rotated.set() if event.kind == "rotated" else None)
adapter.then(Credentials(user="b", password="2"))
os.kill(os.getpid(), signal.SIGUSR1)
good = rotated.wait(10)
if child == 0:
    os._exit(0 if good else 1)
sys.exit(0 if good and os.waitpid(child, 0)[1] == 0 else 1)
"""


class Store:
    """A source that nobody else has, and what it tells."""

    def __init__(self) -> None:
        self.adapter = ScriptedAdapter(Credentials(user="a", password="1"))
        self.source = CredentialSource(self.adapter, ttl=3600)
        self.told: list[str] = []
        self.rotated = threading.Event()
        self.source.subscribe(self._note)

    def _note(self, event: CredentialEvent) -> None:
        self.told.append(event.kind)
        if event.kind == "rotated":
            self.rotated.set()


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.source.close()


def test_a_signal_refreshes_what_is_held(store: Store) -> None:
    """Once asked for; the handler that was there before hears of it too, and is put back."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGUSR1)
        undo = refresh_on_signal(signal.SIGUSR1)
        store.source.get()
        store.adapter.then(Credentials(user="b", password="2"))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert store.rotated.wait(10)
        assert heard == [signal.SIGUSR1]
        undo()
        undo()
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_was_never_used_is_left_alone(store: Store) -> None:
    """A source that nobody has asked asks nobody."""
    refresh_all()
    assert store.told == []


def test_a_store_that_fails_costs_the_others_nothing(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and what was held is still held."""
    other = Store()
    for each in (store, other):
        each.source.get()
    store.adapter.then(CredentialsDenied("the store refuses"))
    other.adapter.then(Credentials(user="b", password="2"))
    refresh_all()
    assert "the store refuses" in caplog.text
    assert store.source.generation == 1
    assert other.source.generation == 2
    other.source.close()


def test_only_in_the_main_thread() -> None:
    """Python allows handlers nowhere else."""
    errors: list[Exception] = []

    def install() -> None:
        try:
            refresh_on_signal(signal.SIGUSR1)
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_in_a_forked_child_too() -> None:
    """Parent and child each refresh their own."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
