"""Loops that may become home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from channels_pg_secrets.layer.candidate import LOOK, Candidate


class SteppedLoop:
    """An event loop's clock and timers, and nothing else of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        """Return the time."""
        return self.now

    def call_at(self, when: float, call: Callable[[], object]) -> None:
        """Keep a timer."""
        self.timers.append((when, call))

    def step(self, late: float = 0.0) -> None:
        """Run the next timer, so many seconds late."""
        when, call = self.timers.pop(0)
        self.now = when + late
        call()


@pytest.fixture
def loop() -> SteppedLoop:
    """A loop on trial."""
    return SteppedLoop()


def tried(loop: SteppedLoop, trial: float, wanted: Callable[[], bool] = lambda: True) -> list[str]:
    """Begin a trial; return what it comes to."""
    outcome: list[str] = []
    Candidate(
        cast("Any", loop),
        trial,
        lambda: outcome.append("elected"),
        lambda: outcome.append("dropped"),
        wanted,
    )
    return outcome


def test_a_loop_that_runs_on_is_elected_once(loop: SteppedLoop) -> None:
    """At the end of its trial and not before, and nothing more is looked at."""
    outcome = tried(loop, 1.0)
    while loop.now < 101.0:
        assert outcome == []
        loop.step(late=0.001)
    assert outcome == ["elected"]
    assert loop.timers == []


def test_a_loop_that_was_late_is_dropped(loop: SteppedLoop) -> None:
    """One late turn says that it runs now and then, or computes."""
    outcome = tried(loop, 1.0)
    loop.step()
    loop.step(late=LOOK + 0.01)
    assert outcome == ["dropped"]
    assert loop.timers == []


def test_a_loop_that_ends_hears_nothing(loop: SteppedLoop) -> None:
    """Whoever never takes another turn is neither elected nor dropped."""
    outcome = tried(loop, 1.0)
    loop.step()
    assert outcome == []
    assert len(loop.timers) == 1


def test_a_trial_ends_when_home_has_moved_elsewhere(loop: SteppedLoop) -> None:
    """Where nobody is wanted any more, nothing comes of it, and nothing more is looked at."""
    wanted = [True]
    outcome = tried(loop, 3600.0, lambda: wanted[0])
    loop.step()
    assert loop.timers
    wanted[0] = False
    loop.step()
    assert outcome == []
    assert loop.timers == []
