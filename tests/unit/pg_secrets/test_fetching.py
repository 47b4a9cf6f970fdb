"""TTL, generations, spacing and what a first use may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pg_secrets import (
    AdapterMisconfigured,
    CredentialEvent,
    Credentials,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialSource,
    CredentialsUnavailable,
)
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]
Heard = Callable[[CredentialSource], list[CredentialEvent]]

OLD = Credentials(user="app", password="old")
NEW = Credentials(user="app", password="new")


def test_static_value_is_asked_for_again_after_its_ttl(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A value without a lease serves for 300 s, and the next look-up asks the store."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter)
    assert source.get().password == "old"
    clock.advance(299.9)
    assert source.get().password == "old"
    assert adapter.fetches == 1
    clock.advance(0.2)
    assert source.get().password == "new"


def test_ttl_is_shortened_by_up_to_a_tenth(clock: FakeClock, make_source: MakeSource) -> None:
    """With the highest jitter the store is asked after 270 s, and not before."""
    adapter = ScriptedAdapter()
    source = make_source(adapter, jitter=0.9999)
    source.get()
    clock.advance(269.9)
    source.get()
    assert adapter.fetches == 1
    clock.advance(0.3)
    source.get()
    assert adapter.fetches == 2


@pytest.mark.parametrize(
    ("lifetime", "given", "asked_after"),
    [
        # Replaced when less than a fifth, or a minute, of it remains.
        (900.0, None, 720.0),
        (86400.0, None, 3600.0),
        (86400.0, 60.0, 60.0),
    ],
)
def test_a_value_whose_end_is_known_is_good_until_then(
    clock: FakeClock,
    make_source: MakeSource,
    lifetime: float,
    given: float | None,
    asked_after: float,
) -> None:
    """It is asked for again before it ends, and once an hour unless somebody chose a TTL."""
    adapter = ScriptedAdapter(lambda: OLD.replace(expires_at=clock.time() + lifetime))
    source = make_source(adapter, ttl=given)
    source.get()
    clock.advance(asked_after - 0.1)
    source.get()
    assert adapter.fetches == 1
    clock.advance(0.2)
    source.get()
    assert adapter.fetches == 2


@pytest.mark.parametrize(
    ("own", "given", "ttl"), [(None, None, 300.0), (60.0, None, 60.0), (60.0, 20.0, 20.0)]
)
def test_ttl_is_the_sources_then_the_adapters(
    clock: FakeClock, make_source: MakeSource, own: float | None, given: float | None, ttl: float
) -> None:
    """A TTL given to the source wins over the adapter's own, which wins over 300 s."""
    adapter = ScriptedAdapter(ttl=own)
    source = make_source(adapter, ttl=given)
    source.get()
    clock.advance(ttl - 0.1)
    source.get()
    assert adapter.fetches == 1
    clock.advance(0.2)
    source.get()
    assert adapter.fetches == 2


def test_announced_rotation_is_fetched_when_it_is_over(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """What the store expects to replace in 20 s is asked for then, not after the TTL."""
    adapter = ScriptedAdapter([OLD.replace(refresh_at=clock.time() + 20.0), NEW])
    source = make_source(adapter)
    source.get()
    clock.advance(19.9)
    assert source.get().password == "old"
    clock.advance(0.2)
    assert source.get().password == "new"


def test_store_that_is_late_is_asked_every_two_seconds(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A rotation that was announced and has not happened is looked for, but not all the time."""
    adapter = ScriptedAdapter(OLD.replace(refresh_at=clock.time() - 1.0))
    source = make_source(adapter)
    source.get()
    clock.advance(1.9)
    source.get()
    assert adapter.fetches == 1
    clock.advance(0.2)
    source.get()
    assert adapter.fetches == 2


def test_generation_counts_real_changes(make_source: MakeSource, heard: Heard) -> None:
    """The generation grows when the login differs, and stays when only its version does."""
    adapter = ScriptedAdapter([OLD, OLD.replace(version="2"), NEW])
    source = make_source(adapter)
    events = heard(source)
    assert source.generation == 0
    assert [source.refresh().generation for _ in range(3)] == [1, 1, 2]
    assert source.generation == 2
    assert [event.kind for event in events] == ["fetched", "unchanged", "rotated"]


def test_cached_look_up_returns_the_same_snapshot(make_source: MakeSource) -> None:
    """Look-ups share one object, so that user and password can never be of two reads."""
    source = make_source(ScriptedAdapter())
    assert source.get() is source.get()


def test_two_fetches_are_a_second_apart(clock: FakeClock, make_source: MakeSource) -> None:
    """Ten refreshes in a row take nine seconds, as the store is asked once a second at most."""
    adapter = ScriptedAdapter()
    source = make_source(adapter)
    start = clock.monotonic()
    for _ in range(10):
        source.refresh(timeout=60.0)
    assert adapter.fetches == 10
    assert clock.monotonic() - start == pytest.approx(9.0)


def test_first_use_waits_ten_seconds_at_most(clock: FakeClock, make_source: MakeSource) -> None:
    """With the store away, the first look-up tries repeatedly and gives up within 10 s."""
    adapter = ScriptedAdapter(CredentialsUnavailable("connection refused"))
    source = make_source(adapter, jitter=0.9)
    start = clock.monotonic()
    with pytest.raises(CredentialsUnavailable, match="connection refused"):
        source.get()
    assert clock.monotonic() - start <= 10.0
    assert adapter.fetches > 2


def test_first_use_succeeds_as_soon_as_the_store_does(make_source: MakeSource) -> None:
    """A store that comes back while somebody waits serves him."""
    away = CredentialsUnavailable("away")
    source = make_source(ScriptedAdapter([away, away, OLD]), jitter=0.5)
    assert source.get().password == "old"


def test_store_that_hangs_does_not_hold_the_caller() -> None:
    """A store that never answers costs a caller his time-out and no more."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = CredentialSource(adapter, background=False)
    with pytest.raises(CredentialsUnavailable, match=r"did not answer in time \(0.05 s\)"):
        source.get(timeout=0.05)
    adapter.answering.set()
    assert source.get().user == "app"
    assert adapter.fetches == 1
    source.close()


PERMANENT = [CredentialsDenied, CredentialsNotFound, CredentialsInvalid, AdapterMisconfigured]


@pytest.mark.parametrize("kind", PERMANENT)
def test_permanent_error_is_raised_at_once(
    clock: FakeClock, make_source: MakeSource, kind: type[CredentialsError]
) -> None:
    """What waiting does not mend is raised at first use without a second try."""
    adapter = ScriptedAdapter(kind("no"))
    source = make_source(adapter)
    start = clock.monotonic()
    with pytest.raises(kind, match="no"):
        source.get()
    assert clock.monotonic() == start
    assert adapter.fetches == 1


def test_permanent_error_is_remembered_for_the_backoff(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """Asking again at once raises the same without a request; after the pause it is tried."""
    adapter = ScriptedAdapter([CredentialsDenied("policy"), OLD])
    source = make_source(adapter, jitter=0.9)
    for _ in range(5):
        with pytest.raises(CredentialsDenied, match="policy"):
            source.get()
    assert adapter.fetches == 1
    clock.advance(1.1)
    assert source.get().password == "old"


def test_raised_errors_are_not_shared(make_source: MakeSource) -> None:
    """Each caller gets an exception of his own, so that tracebacks do not mix."""
    source = make_source(ScriptedAdapter(CredentialsDenied("policy")))
    caught = []
    for _ in range(2):
        with pytest.raises(CredentialsDenied) as info:
            source.get()
        caught.append(info.value)
    assert caught[0] is not caught[1]


def test_foreign_error_becomes_one_of_the_family(make_source: MakeSource) -> None:
    """An adapter that breaks its contract is reported by type and place, not by its text."""

    def broken() -> Credentials:
        raise KeyError("canary-secret")

    source = make_source(ScriptedAdapter(broken))
    with pytest.raises(
        CredentialsInvalid, match=r"'scripted' failed with KeyError at .*\.py:\d+"
    ) as e:
        source.get()
    assert "canary" not in str(e.value)
    assert e.value.__cause__ is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda: "app:secret",
        lambda: Credentials(expires_at="tomorrow"),  # type: ignore[arg-type]
        lambda: Credentials(refresh_at=float("nan")),
    ],
)
def test_answer_of_the_wrong_shape_is_invalid(
    make_source: MakeSource, answer: Callable[[], Any]
) -> None:
    """What is not a snapshot with proper times is refused before anybody uses it."""
    with pytest.raises(CredentialsInvalid, match="scripted"):
        make_source(ScriptedAdapter(answer)).get()


def test_closed_source_hands_out_nothing(make_source: MakeSource) -> None:
    """After close() every look-up raises, and the adapter has been closed once."""
    adapter = ScriptedAdapter()
    source = make_source(adapter)
    source.get()
    source.close()
    source.close()
    with pytest.raises(CredentialsError, match="closed"):
        source.get()
    with pytest.raises(CredentialsError, match="closed"):
        source.refresh()
    adapter.wait_for(lambda: adapter.closed == 1)


def test_stats_show_age_and_counts(clock: FakeClock, make_source: MakeSource) -> None:
    """stats() tells the age of what is held and how often what happened."""
    source = make_source(ScriptedAdapter([OLD, NEW]))
    assert source.stats()["age"] is None
    source.get()
    clock.advance(12.0)
    stats = source.stats()
    assert (stats["adapter"], stats["age"], stats["expires_in"]) == ("scripted", 12.0, None)
    source.refresh()
    stats = source.stats()
    assert (stats["age"], stats["fetches"], stats["rotated"], stats["generation"]) == (0.0, 2, 1, 2)


async def test_cached_async_look_up_does_not_suspend(make_source: MakeSource) -> None:
    """aget() of what is in memory finishes in one step."""
    source = make_source(ScriptedAdapter())
    await source.aget()
    step = source.aget()
    with pytest.raises(StopIteration) as stop:
        step.send(None)
    assert stop.value.value is source.get()


async def test_waiting_async_look_up_leaves_the_loop_free(make_source: MakeSource) -> None:
    """While the store thinks, other tasks of the loop run."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = make_source(adapter)
    waiting = asyncio.ensure_future(source.aget())
    await asyncio.get_running_loop().run_in_executor(
        None, adapter.wait_for, lambda: adapter.fetches == 1
    )
    assert not waiting.done()
    adapter.answering.set()
    assert (await waiting).user == "app"


async def test_async_time_out() -> None:
    """aget() gives up after its time-out, too."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = CredentialSource(adapter, background=False)
    with pytest.raises(CredentialsUnavailable, match="in time"):
        await source.aget(timeout=0.05)
    adapter.answering.set()
    source.close()


async def test_cancelled_waiter_leaves_the_others(make_source: MakeSource) -> None:
    """A look-up that is cancelled neither stops the fetch nor the other waiters."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = make_source(adapter)
    first, second = (asyncio.ensure_future(source.aget()) for _ in range(2))
    await asyncio.get_running_loop().run_in_executor(
        None, adapter.wait_for, lambda: adapter.fetches == 1
    )
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    adapter.answering.set()
    assert (await second).user == "app"
    assert adapter.fetches == 1


def test_source_serves_many_loops(make_source: MakeSource) -> None:
    """One source answers on one event loop after another."""
    source = make_source(ScriptedAdapter())
    assert [asyncio.run(source.aget()).generation for _ in range(3)] == [1, 1, 1]
