"""Futures whose tasks go on without another turn of the event loop.

asyncio has a task go on one turn of its loop after what it waited for: one more poll of all sockets
for each message, and where other tasks compute, each of them comes first. Here it goes on at the
end of the callback that settled its future: :class:`Turn` is that callback's extent. The task runs
as it always does, from the loop and not within another task; only the detour is left out.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Turn(threading.local):
    """What a reader callback has settled so far. One for each thread, and so for each loop."""

    def __init__(self) -> None:
        #: None: no turn has begun.
        self.settled: list[Waiter[Any]] | None = None

    def begin(self) -> None:
        """Keep those who are settled from now on, for :meth:`end`."""
        self.settled = []

    def end(self) -> None:
        """Have everyone go on who was settled. Hold no lock: what they do may be anything."""
        settled, self.settled = self.settled, None
        if not settled:
            return
        settled.reverse()
        try:
            while settled:  # each is let go when it has gone on: what waits next takes its memory
                waiter = settled.pop()
                if waiter.resume is not None:
                    waiter.context.run(waiter.resume, waiter)
        finally:
            # KeyboardInterrupt and SystemExit come through a task; the others' turn is next.
            for waiter in reversed(settled):
                waiter.go_on_soon()


turn = Turn()
_Future = asyncio.Future  # without super(): there are two of these for each message


class Waiter(asyncio.Future[T]):
    """A future that one task awaits, of the running loop."""

    __slots__ = ("context", "resume")

    def __init__(self) -> None:
        _Future.__init__(self)
        self.resume: Callable[[Any], object] | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        """Keep what has the awaiting task go on."""
        if context is None or self.resume is not None or self.done():
            super().add_done_callback(fn, context=context)
        else:
            self.resume, self.context = fn, context

    def set_result(self, result: T, /) -> None:
        """Settle; the task goes on at the end of the turn, or soon."""
        _Future.set_result(self, result)
        settled = turn.settled
        if settled is not None:
            settled.append(self)
        else:
            self.go_on_soon()

    def set_exception(self, exception: type | BaseException, /) -> None:
        """Settle with an error; the task goes on soon."""
        super().set_exception(exception)
        self.go_on_soon()

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel; the task goes on soon."""
        cancelled = super().cancel(msg)
        if cancelled:
            self.go_on_soon()
        return cancelled

    def go_on_soon(self) -> None:
        """Have the task go on in the loop's next turn."""
        if self.resume is not None:
            self.get_loop().call_soon(self.resume, self, context=self.context)
