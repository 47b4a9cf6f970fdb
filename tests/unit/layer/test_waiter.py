"""Futures whose tasks go on without another turn of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from channels_pg_secrets.layer.waiter import Waiter, turn


def callback(call: Callable[[], object]) -> asyncio.Future[None]:
    """Run something as a wire's reader callback runs: from the loop, within a turn."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        turn.begin()
        try:
            call()
        finally:
            try:
                turn.end()
            finally:
                done.set_result(None)

    loop.call_soon(run)
    return done


async def waiting(waiter: Waiter[int], log: list[object]) -> None:
    """Await a waiter in a task, and say when it goes on."""
    try:
        log.append(await waiter)
    except BaseException as error:
        log.append(type(error))
        raise


async def test_who_was_settled_goes_on_within_the_callback() -> None:
    """In the order in which they were settled, at the callback's end and not before."""
    log: list[object] = []
    waiters = [Waiter[int]() for _ in range(3)]
    tasks = [asyncio.create_task(waiting(waiter, log)) for waiter in waiters]
    await asyncio.sleep(0)

    def settle() -> None:
        for number in (2, 0, 1):
            waiters[number].set_result(number)
        log.append("settled")
        asyncio.get_running_loop().call_soon(log.append, "next turn")

    await callback(settle)
    await asyncio.gather(*tasks)
    assert log == ["settled", 2, 0, 1, "next turn"]


async def test_who_is_settled_outside_goes_on_in_the_next_turn() -> None:
    """Also where a task that went on settles it: no task runs within another."""
    log: list[object] = []
    first, second = Waiter[int](), Waiter[int]()

    async def hand_on() -> None:
        log.append(await first)
        second.set_result(2)
        log.append("handed on")

    tasks = [asyncio.create_task(hand_on()), asyncio.create_task(waiting(second, log))]
    await asyncio.sleep(0)
    await callback(lambda: first.set_result(1))
    await asyncio.gather(*tasks)
    assert log == [1, "handed on", 2]


async def test_the_task_runs_as_itself() -> None:
    """It is the current task, and in its own context."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    waiter = Waiter[int]()
    seen = []

    async def run() -> None:
        name.set("mine")
        await waiter
        seen.append((asyncio.current_task(), name.get()))
        name.set("changed")

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    await callback(lambda: waiter.set_result(1))
    assert seen == [(task, "mine")]
    assert name.get("unset") == "unset"


async def test_errors_and_cancelling() -> None:
    """Both reach the task, and a cancelled waiter takes no result."""
    log: list[object] = []
    failing, cancelled = Waiter[int](), Waiter[int]()
    tasks = [asyncio.create_task(waiting(waiter, log)) for waiter in (failing, cancelled)]
    await asyncio.sleep(0)
    await callback(lambda: failing.set_exception(ValueError("no")))
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, asyncio.CancelledError]
    assert log == [ValueError, asyncio.CancelledError]
    with pytest.raises(asyncio.InvalidStateError):
        cancelled.set_result(1)


async def test_cancelled_between_settling_and_going_on() -> None:
    """The task is told of being cancelled, once, as with any future."""
    log: list[object] = []
    waiter = Waiter[int]()
    task = asyncio.create_task(waiting(waiter, log))
    await asyncio.sleep(0)

    def settle_and_cancel() -> None:
        waiter.set_result(1)
        task.cancel()

    await callback(settle_and_cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == [asyncio.CancelledError]


async def test_settled_before_anyone_waits() -> None:
    """Who awaits it later has the result at once; a turn passes over it."""
    waiter = Waiter[int]()
    await callback(lambda: waiter.set_result(7))
    assert await waiter == 7


async def test_several_may_wait() -> None:
    """Whoever comes second is told as by any future."""
    waiter = Waiter[int]()
    both = asyncio.gather(*(asyncio.wait_for(asyncio.shield(waiter), 5) for _ in range(2)))
    await asyncio.sleep(0)
    await callback(lambda: waiter.set_result(3))
    assert await both == [3, 3]


def test_whom_an_interrupt_kept_from_going_on() -> None:
    """KeyboardInterrupt in one task ends the loop, and when it runs again the others go on."""
    log: list[object] = []
    loop = asyncio.new_event_loop()

    async def interrupted(waiter: Waiter[int]) -> None:
        await waiter
        raise KeyboardInterrupt

    async def begin() -> tuple[list[Waiter[int]], list[asyncio.Task[None]]]:
        waiters = [Waiter[int]() for _ in range(3)]
        tasks = [asyncio.create_task(interrupted(waiters[0]))]
        tasks += [asyncio.create_task(waiting(waiter, log)) for waiter in waiters[1:]]
        await asyncio.sleep(0)
        return waiters, tasks

    def settle() -> None:
        for number, waiter in enumerate(waiters):
            waiter.set_result(number)

    try:
        waiters, (broken, *others) = loop.run_until_complete(begin())
        loop.call_soon(callback, settle)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(others, timeout=5))
        assert log == []
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(*others), 5))
        assert log == [1, 2]
        assert isinstance(broken.exception(), KeyboardInterrupt)
    finally:
        loop.close()


async def test_each_thread_has_its_own_turn() -> None:
    """What another thread settles meanwhile is none of this turn's business."""
    settled = []

    def elsewhere() -> None:
        settled.append(turn.settled)

    turn.begin()
    try:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
    finally:
        turn.end()
    assert settled == [None]


async def test_nothing_is_kept_alive() -> None:
    """A waiter is gone when its task has gone on."""
    waiter = Waiter[int]()
    gone = weakref.ref(waiter)
    task = asyncio.create_task(waiting(waiter, []))
    await asyncio.sleep(0)
    done = callback(functools.partial(waiter.set_result, 1))
    del waiter
    await done
    await task
    del done
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None
