"""The refresher: one thread that keeps sources good without being asked."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from pg_secrets import Credentials, CredentialSource, CredentialsUnavailable
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]

OLD = Credentials(user="app", password="old")
NEW = Credentials(user="app", password="new")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only the test moves, since a thread waits on it."""
    return FakeClock()


def refreshers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pg_secrets"]


def fetchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pg_secrets-fetch"]


class Waiting:
    """Waits for an event of a source while time passes."""

    def __init__(self, source: CredentialSource, clock: FakeClock) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self.kinds: list[str] = []
        source.subscribe(lambda event: self._heard(event.kind))

    def _heard(self, kind: str) -> None:
        with self._condition:
            self.kinds.append(kind)
            self._condition.notify_all()

    def until(self, kind: str) -> None:
        for _ in range(1000):
            with self._condition:
                if self._condition.wait_for(lambda: kind in self.kinds, 0.01):
                    return
            # More than once: the thread may just have been about to wait.
            self._clock.advance(1.0)
        raise AssertionError(self.kinds)


def test_value_is_refreshed_without_being_asked_for(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """When the TTL has passed the thread fetches, and the next look-up finds the new value."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter, background=True)
    waiting = Waiting(source, clock)
    source.get()
    clock.wait_for_waiters(1)
    for _ in range(6):
        clock.advance(60.0)
    waiting.until("rotated")
    assert source.get().password == "new"


def test_one_thread_serves_all_sources(clock: FakeClock, make_source: MakeSource) -> None:
    """Twenty sources that are in use have one thread between them."""
    before = set(refreshers())
    for _ in range(20):
        make_source(ScriptedAdapter(), background=True).get()
    assert len(set(refreshers()) - before) == 1


def test_no_thread_before_the_first_use_nor_without_background(make_source: MakeSource) -> None:
    """Making a source starts no thread, and neither does one that refreshes on demand."""
    before = set(threading.enumerate())
    make_source(ScriptedAdapter(), background=True)
    make_source(ScriptedAdapter()).get()
    assert set(threading.enumerate()) <= before


def test_thread_ends_with_the_last_source(clock: FakeClock, make_source: MakeSource) -> None:
    """When all sources are closed no thread is left, and a new one starts it again."""
    before = set(refreshers())
    source = make_source(ScriptedAdapter(), background=True)
    source.get()
    (thread,) = set(refreshers()) - before
    source.close()
    thread.join(10.0)
    assert not thread.is_alive()
    make_source(ScriptedAdapter(), background=True).get()
    assert set(refreshers()) - before


def test_store_that_hangs_holds_up_no_other_source(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """While one store does not answer, the other source is still refreshed."""
    stuck, other = ScriptedAdapter([OLD, NEW]), ScriptedAdapter([OLD, NEW])
    make_source(stuck, background=True).get()
    source = make_source(other, background=True)
    source.get()
    waiting = Waiting(source, clock)
    stuck.answering.clear()
    clock.advance(301.0)
    waiting.until("rotated")
    stuck.answering.set()


def test_look_that_hangs_holds_up_no_other_source(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """While one adapter does not say whether something changed, another's value is refreshed."""

    class Hanging(ScriptedAdapter):
        def changed(self, credentials: Credentials) -> bool | None:
            super().changed(credentials)
            self.answering.wait(30.0)
            return None

    stuck = Hanging()
    make_source(stuck, background=True).get()
    source = make_source(ScriptedAdapter([OLD, NEW]), background=True, ttl=5.0)
    source.get()
    waiting = Waiting(source, clock)
    stuck.answering.clear()
    waiting.until("rotated")
    stuck.answering.set()


def test_rejection_is_polled_without_being_asked(clock: FakeClock, make_source: MakeSource) -> None:
    """After a refusal the thread asks until the store has caught up, so that others rotate too."""
    adapter = ScriptedAdapter([OLD, OLD, OLD, NEW])
    source = make_source(adapter, background=True)
    waiting = Waiting(source, clock)
    old = source.get()
    source.rejected(old, "28P01")
    for fetches in (2, 3, 4):
        while adapter.fetches < fetches:
            clock.wait_for_waiters(1)
            clock.advance(0.5)
    waiting.until("rotated")


def test_change_is_polled_every_second(clock: FakeClock, make_source: MakeSource) -> None:
    """What an adapter notices cheaply is fetched within about a second."""
    adapter = ScriptedAdapter([OLD, NEW])
    adapter.newer = False
    source = make_source(adapter, background=True)
    waiting = Waiting(source, clock)
    source.get()
    clock.wait_for_waiters(1)
    clock.advance(1.0)
    adapter.wait_for(lambda: adapter.looked >= 1)
    adapter.newer = True
    for _ in range(3):
        clock.wait_for_waiters(1)
        clock.advance(1.0)
    waiting.until("rotated")


def test_store_that_was_away_is_found_again(clock: FakeClock, make_source: MakeSource) -> None:
    """After a first use that failed the thread goes on trying."""
    adapter = ScriptedAdapter([CredentialsUnavailable("away"), OLD])
    source = make_source(adapter, background=True, jitter=0.5)
    waiting = Waiting(source, clock)
    with pytest.raises(CredentialsUnavailable):
        source.get(timeout=0.0)
    for _ in range(3):
        clock.wait_for_waiters(1)
        clock.advance(1.0)
    waiting.until("fetched")
    assert source.current is not None


def test_expired_value_is_tried_for_on_schedule(clock: FakeClock, make_source: MakeSource) -> None:
    """With the store away beyond a value's end the thread waits for the next try."""
    ends = OLD.replace(expires_at=clock.time() + 60.0)
    adapter = ScriptedAdapter([ends, CredentialsUnavailable("away")])
    source = make_source(adapter, background=True, jitter=0.5)
    source.get()
    clock.advance(61.0)
    with pytest.raises(CredentialsUnavailable):
        source.get(timeout=0.0)
    for thread in fetchers():
        thread.join(10.0)
    assert source.tend() == pytest.approx(1.0)
    clock.wait_for_waiters(1)


def test_lease_is_given_back_by_the_thread(clock: FakeClock, make_source: MakeSource) -> None:
    """A release in one thread leads to a revocation in another."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter, background=True)
    hold = source.hold(source.get())
    clock.advance(1.0)
    source.refresh()
    hold.release()
    adapter.wait_for(lambda: len(adapter.revoked) == 1)


def test_forgotten_source_is_collected(clock: FakeClock) -> None:
    """The thread keeps no source alive that has no lease to give back."""
    source = CredentialSource(ScriptedAdapter(), clock=clock)
    source.get()
    clock.wait_for_waiters(1)
    gone = weakref.ref(source)
    del source
    for _ in range(3):
        clock.advance(61.0)
        gc.collect()
    assert gone() is None
