"""When a link needs another connection, and when it tries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from channels_pg_secrets.layer import link as module
from channels_pg_secrets.layer.link import LAST_DELAY, MAX_AGE, Link, backoff


class Clock:
    """A monotonic clock that goes on when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that links look at."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def connected(clock: Clock, generation: int = 1, lease: float | None = None) -> Link:
    """Return a link that has just been connected."""
    opened = SimpleNamespace(generation=generation, opened_at=clock.now)
    wire: Any = SimpleNamespace(lost=None, opened=opened)
    link = Link("listener", wire=wire)
    link.succeeded(lease)
    return link


def test_a_link_without_a_connection_wants_one_at_once(clock: Clock) -> None:
    """A new link tries without waiting; one that is connected wants nothing."""
    link = Link("listener")
    assert link.wants(None)
    assert link.due(None)
    assert not connected(clock).wants(1)


def test_newer_credentials_make_it_want_another(clock: Clock) -> None:
    """A generation above the connection's is a reason to move; an equal one is none."""
    link = connected(clock, generation=3)
    assert not link.wants(3)
    assert link.wants(4)


@pytest.mark.parametrize(("lease", "most"), [(None, MAX_AGE), (600.0, 540.0), (1e6, MAX_AGE)])
def test_no_connection_outlives_its_lease(clock: Clock, lease: float | None, most: float) -> None:
    """A connection is replaced within the last tenth of its time, and not sooner."""
    link = connected(clock, lease=lease)
    clock.now += 0.89 * most
    assert not link.wants(1)
    clock.now += 0.12 * most
    assert link.wants(1)


def test_waits_grow_up_to_a_bound(clock: Clock) -> None:
    """Each failure is waited for longer, with jitter, and never longer than the bound."""
    link = Link("publisher")
    for failures in range(1000):
        link.failed()
        assert not link.due(None)
        clock.now += backoff(failures)
        assert link.due(None)
    assert backoff(1000) == LAST_DELAY


def test_a_refused_login_is_left_alone_until_there_is_another(clock: Clock) -> None:
    """What the server refused is not tried again for as long as it says; what is newer is."""
    link = Link("publisher")
    link.failed(at_least=30.0, refused=2)
    clock.now += 14.0
    assert not link.due(2)
    assert link.due(3)
    clock.now += 16.0
    assert link.due(2)


def test_a_refused_login_is_tried_again_once_the_other_link_got_in(clock: Clock) -> None:
    """The database has had its password changed: what refused this login refuses it no more."""
    link = Link("listener")
    link.failed(at_least=30.0, refused=2)
    link.admitted()
    assert link.due(2)


def test_a_refusal_that_the_other_link_overtook_is_out_of_date(clock: Clock) -> None:
    """An attempt from before the other link got in says nothing of what the server does now."""
    link = Link("listener")
    link.begin()
    link.admitted()
    link.failed(at_least=30.0, refused=2)
    clock.now += LAST_DELAY
    assert link.due(2)
    link.begin()
    link.failed(at_least=30.0, refused=2)
    clock.now += LAST_DELAY
    assert not link.due(2)


def test_an_outage_is_waited_for_though_the_other_link_got_in(clock: Clock) -> None:
    """A connection that failed for another reason than its login has its own waits."""
    link = Link("listener")
    link.failed(at_least=30.0)
    link.admitted()
    assert not link.due(2)


def test_an_outage_is_waited_for_whatever_the_credentials(clock: Clock) -> None:
    """Newer credentials are no reason to hurry where the old ones were not refused."""
    link = Link("publisher")
    link.failed(at_least=30.0)
    assert not link.due(5)


def test_what_was_to_be_replaced_still_is_after_a_failure(clock: Clock) -> None:
    """A move that failed is tried again; a link that was down is connected anyway."""
    link = connected(clock)
    link.replace = True
    link.begin()
    link.failed()
    assert link.replace
    assert not Link("publisher").replace
