"""Results for futures of any event loop, with one wake-up for each loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_Settled = tuple["asyncio.Future[Any]", Any, "BaseException | None"]


class Wakeups:
    """Collects futures to be settled; :meth:`run` settles them, each in its own loop.

    A future of the running loop is settled at once; those of another loop are handed over together
    with one ``call_soon_threadsafe``. A future whose loop is closed is refused.
    """

    __slots__ = ("_elsewhere", "_here", "_running")

    def __init__(self) -> None:
        self._running = running_loop()
        self._here: list[_Settled] = []
        self._elsewhere: dict[asyncio.AbstractEventLoop, list[_Settled]] | None = None

    def add(
        self, future: asyncio.Future[Any], result: Any = None, error: BaseException | None = None
    ) -> bool:
        """Settle this future; False where nobody can be waiting for it any more."""
        loop = future.get_loop()
        if loop is self._running:
            self._here.append((future, result, error))
            return True
        if loop.is_closed():
            return False
        if self._elsewhere is None:
            self._elsewhere = {}
        self._elsewhere.setdefault(loop, []).append((future, result, error))
        return True

    def run(self) -> None:
        """Settle all that were added."""
        if self._here:
            _settle(self._here)
            self._here = []
        if self._elsewhere:
            for loop, settled in self._elsewhere.items():
                try:
                    loop.call_soon_threadsafe(_settle, settled)
                except RuntimeError:
                    continue  # closed in the meantime, with everyone who waited in it
            self._elsewhere = None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def settle(
    futures: Iterable[asyncio.Future[Any]], error: BaseException | None, result: Any = None
) -> None:
    """Settle futures of any loops, all alike."""
    wakeups = Wakeups()
    for future in futures:
        wakeups.add(future, result, error)
    wakeups.run()


def _settle(settled: list[_Settled]) -> None:
    for future, result, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
