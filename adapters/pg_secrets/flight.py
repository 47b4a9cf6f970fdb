"""Single flight: one request to the store, however many wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from pg_secrets.clock import Clock
from pg_secrets.errors import CredentialsError

#: Seconds given to a worker thread to end after it has said that it is done: a server that asks
#: once and then forks its workers must not fork beside it.
_JOIN = 1.0


class Flight:
    """One journey to the store, in a daemon thread of its own, which many may wait for.

    A thread of its own, since a store's client may block for longer than any caller has agreed
    to wait, and must neither stop an event loop nor another source. Thread-safe.
    """

    def __init__(self, clock: Clock, *, deadline: float, forced: bool = False) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._done = False
        self._callbacks: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        #: Monotonic time until which somebody waits; the journey is repeated until then.
        self.deadline = deadline
        #: Whether somebody asked for a fetch outright, where renewing would do.
        self.forced = forced
        #: Whether it has got as far as a fetch.
        self.fetched = False
        self.error: CredentialsError | None = None

    def start(self, work: Callable[[Flight], None]) -> None:
        """Begin; ``work`` must never raise."""
        self._thread = threading.Thread(
            target=self._run, args=(work,), name="pg_secrets-fetch", daemon=True
        )
        self._thread.start()

    def _run(self, work: Callable[[Flight], None]) -> None:
        try:
            work(self)
        finally:
            self._land()

    def _land(self) -> None:
        with self._condition:
            self._done = True
            callbacks, self._callbacks = self._callbacks, []
            self._condition.notify_all()
        for callback in callbacks:
            callback()

    def pause_until(self, moment: float) -> None:
        """Let time pass until a monotonic moment, in the worker thread."""
        with self._condition:
            while (left := moment - self._clock.monotonic()) > 0.0:
                self._clock.pause(self._condition, left)

    def wait(self, deadline: float) -> bool:
        """Wait until it is over or a monotonic ``deadline`` has passed; say whether it is."""
        with self._condition:
            while not self._done:
                left = deadline - self._clock.monotonic()
                if left <= 0.0:
                    return False
                self._clock.wait(self._condition, left)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN)
        return True

    async def wait_async(self, timeout: float) -> bool:
        """Do what :meth:`wait` does on an event loop, without blocking it."""
        loop = asyncio.get_running_loop()
        landed: asyncio.Future[None] = loop.create_future()

        def land() -> None:
            try:
                loop.call_soon_threadsafe(_resolve, landed)
            except RuntimeError:
                # The loop was closed while its waiter waited: nobody is left to tell.
                return

        with self._condition:
            if self._done:
                return True
            self._callbacks.append(land)
        # Not wait_for: before Python 3.12 it swallows a cancellation that meets a result.
        await asyncio.wait((landed,), timeout=timeout)
        return landed.done()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
