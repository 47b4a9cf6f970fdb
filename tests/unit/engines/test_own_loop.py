"""What runs on a loop of its own: its result, its end, and what nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from channels_pg_secrets.engines.own_loop import Errand, on_own_loop


async def test_runs_in_another_thread_and_returns_the_result() -> None:
    """On a loop that is not the caller's."""
    here = asyncio.get_running_loop()
    discarded: list[object] = []

    async def work() -> tuple[object, int]:
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), threading.get_ident()

    loop, thread = await on_own_loop(work, discarded.append)
    assert loop is not here
    assert thread != threading.get_ident()
    assert not discarded


async def test_passes_on_what_is_raised() -> None:
    """As if it had run here."""

    async def work() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await on_own_loop(work, lambda _: None)


async def test_cancelling_cancels_the_work() -> None:
    """And does not wait for it."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(on_own_loop(work, lambda _: None))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)


async def test_a_result_that_comes_after_the_end_is_discarded() -> None:
    """A driver may swallow a cancellation: the connection that it opened is nobody's."""
    begun, discarded = threading.Event(), threading.Event()
    results: list[str] = []

    async def work() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "swallowed"
        return "never"

    def discard(result: str) -> None:
        results.append(result)
        discarded.set()

    task = asyncio.ensure_future(on_own_loop(work, discard))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(discarded.wait, 10)
    assert results == ["swallowed"]


async def test_a_result_on_its_way_when_the_caller_ends_is_discarded() -> None:
    """The thread is done, and the caller is cancelled before it has looked."""
    results: list[str] = []

    async def work() -> str:
        return "made"

    errand = Errand(work, results.append)
    assert await asyncio.to_thread(errand.run) == "made"
    assert not results
    errand.abandon()
    assert results == ["made"]
