"""Stale on error, backoff, and what changes notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from pg_secrets import (
    CredentialEvent,
    Credentials,
    CredentialsDenied,
    CredentialsError,
    CredentialSource,
    CredentialsUnavailable,
    Lease,
)
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]
Heard = Callable[[CredentialSource], list[CredentialEvent]]

OLD = Credentials(user="app", password="old")
NEW = Credentials(user="app", password="new")


@pytest.mark.parametrize("error", [CredentialsUnavailable("away"), CredentialsDenied("policy")])
def test_valid_value_survives_the_store(
    clock: FakeClock, make_source: MakeSource, heard: Heard, error: CredentialsError
) -> None:
    """A value that has no expiry serves for a day of failures, and its age shows."""
    source = make_source(ScriptedAdapter([OLD, error]), jitter=0.5)
    events = heard(source)
    source.get()
    for _ in range(24):
        clock.advance(3600.0)
        assert source.get().password == "old"
    stats = source.stats()
    assert stats["age"] == 24 * 3600.0
    assert stats["stale"] is True
    assert stats["last_error"] == f"{type(error).__name__}: {error}"
    assert {event.kind for event in events} == {"fetched", "stale_served"}
    assert events[-1].error is not None


def test_store_that_comes_back_is_used_again(clock: FakeClock, make_source: MakeSource) -> None:
    """However long the store was away, its next answer is taken: failing is never final."""
    source = make_source(ScriptedAdapter([OLD, *[CredentialsUnavailable("away")] * 50, NEW]))
    source.get()
    for _ in range(60):
        clock.advance(301.0)
        source.get()
    assert source.get().password == "new"
    assert source.stats()["stale"] is False
    assert source.stats()["consecutive_failures"] == 0


def test_pauses_grow_to_a_minute(clock: FakeClock, make_source: MakeSource) -> None:
    """A store that fails is asked after 1, 2, 4… and at most 60 seconds, by the highest jitter."""
    adapter = ScriptedAdapter([OLD, CredentialsUnavailable("away")])
    source = make_source(adapter, jitter=1.0)
    source.get()
    clock.advance(301.0)
    asked = []
    for _ in range(4000):
        before = adapter.fetches
        source.get()
        if adapter.fetches > before:
            asked.append(clock.monotonic())
        clock.advance(0.1)
    gaps = [b - a for a, b in pairwise(asked)]
    assert gaps[:7] == pytest.approx([1, 2, 4, 8, 16, 32, 60], abs=0.3)
    assert max(gaps) <= 60.3


@pytest.mark.parametrize("error", [CredentialsUnavailable("away"), CredentialsDenied("policy")])
@pytest.mark.parametrize("jitter", [0.4, 0.7, 1.0])
def test_a_store_that_is_back_before_the_end_is_found_in_time(
    clock: FakeClock, make_source: MakeSource, error: CredentialsError, jitter: float
) -> None:
    """However long the store has been failing, it is asked again in a lease's last second."""
    lease = OLD.replace(lease=Lease(id="lease", duration=300.0, renewable=False))
    adapter = ScriptedAdapter([lease, error])
    source = make_source(adapter, jitter=jitter)
    end = clock.monotonic() + 300.0
    asked = []
    while clock.monotonic() < end - 0.05:
        before = adapter.fetches
        source.get()
        if adapter.fetches > before:
            asked.append(clock.monotonic())
        clock.advance(0.1)
    assert end - asked[-1] <= 1.2
    assert len(asked) < 40
    assert all(b - a >= 0.99 for a, b in pairwise(asked))


def test_first_use_fails_fast_while_the_next_try_is_far(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """When the pause outlasts the caller's patience he is told so at once."""
    adapter = ScriptedAdapter(CredentialsUnavailable("away"))
    source = make_source(adapter, jitter=1.0)
    with pytest.raises(CredentialsUnavailable):
        source.get()
    asked, start = adapter.fetches, clock.monotonic()
    with pytest.raises(CredentialsUnavailable, match="next try in"):
        source.get(timeout=0.1)
    assert (adapter.fetches, clock.monotonic()) == (asked, start)


def test_refresh_tells_of_the_failure_and_keeps_what_is_held(make_source: MakeSource) -> None:
    """Who asks for a refresh learns that it failed; look-ups still get the valid value."""
    source = make_source(ScriptedAdapter([OLD, CredentialsDenied("policy")]))
    source.get()
    with pytest.raises(CredentialsDenied, match="policy"):
        source.refresh()
    assert source.get().password == "old"


def test_change_is_noticed_within_a_second(clock: FakeClock, make_source: MakeSource) -> None:
    """An adapter that notices changes is looked at once a second, and then fetched from."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter)
    source.get()
    adapter.newer = False
    clock.advance(1.1)
    for _ in range(100):
        source.get()
    looked = adapter.looked
    adapter.newer = True
    assert source.get().password == "old"
    assert adapter.looked == looked
    clock.advance(1.1)
    assert source.get().password == "new"
    assert adapter.fetches == 2


async def test_look_does_not_block_the_event_loop(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """While an adapter takes its time to look, the loop runs and others get what is held."""

    class Slow(ScriptedAdapter):
        def changed(self, credentials: Credentials) -> bool | None:
            self.answering.wait(10.0)
            return super().changed(credentials)

    adapter = Slow([OLD, NEW])
    source = make_source(adapter)
    await source.aget()
    clock.advance(1.1)
    adapter.newer = True
    adapter.answering.clear()
    looking = asyncio.ensure_future(source.aget())
    await asyncio.sleep(0)
    assert adapter.looked == 0
    assert (await source.aget()).password == "old"
    adapter.answering.set()
    assert (await looking).password == "new"


def test_look_that_fails_is_no_change(clock: FakeClock, make_source: MakeSource) -> None:
    """An adapter whose look fails is not asked for a fetch because of it."""

    class Blind(ScriptedAdapter):
        def changed(self, credentials: Credentials) -> bool | None:
            raise OSError("no such file")

    adapter = Blind()
    source = make_source(adapter)
    source.get()
    clock.advance(2.0)
    source.get()
    assert adapter.fetches == 1
