"""Runs a coroutine on an event loop of its own, in a worker thread.

For what is written for an event loop and yet holds it up. Logging in is that: libpq computes
SCRAM's 4096 rounds of HMAC (RFC 7677) between two reads, for several milliseconds, in which no
message would be sent or received.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def on_own_loop(
    work: Callable[[], Coroutine[Any, Any, T]], discard: Callable[[T], None]
) -> T:
    """Return what ``work()`` returns, run in a worker thread by a loop that ends with it.

    Cancelling cancels ``work()`` too, without waiting for that. What it has returned, or returns
    even so, is given to ``discard``, in either thread.
    """
    errand = Errand(work, discard)
    try:
        return await asyncio.to_thread(errand.run)
    except asyncio.CancelledError:
        errand.abandon()
        raise


class Errand(Generic[T]):
    """One run, and whether anybody still waits for it."""

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, T]], discard: Callable[[T], None]
    ) -> None:
        self._work = work
        self._discard = discard
        self._lock = threading.Lock()
        self._abandoned = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._results: list[T] = []

    def run(self) -> T:
        """Do the work; blocks."""
        result = asyncio.run(self._cancellable())
        with self._lock:
            self._results.append(result)
            abandoned = self._abandoned
        if abandoned:
            self._drop_result()
            raise asyncio.CancelledError
        return result

    def abandon(self) -> None:
        """Cancel the work; if it is done, nobody takes its result any more."""
        with self._lock:
            self._abandoned = True
            if self._running is not None:
                loop, task = self._running
                loop.call_soon_threadsafe(task.cancel)
        self._drop_result()

    async def _cancellable(self) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (asyncio.run made one)
        with self._lock:
            if self._abandoned:
                raise asyncio.CancelledError
            self._running = asyncio.get_running_loop(), task
        try:
            return await self._work()
        finally:
            with self._lock:
                self._running = None

    def _drop_result(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        for result in results:
            self._discard(result)
