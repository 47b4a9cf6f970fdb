"""A loop that uses the layer while home is private, and may become home itself.

What is done on the loop of whoever asks for it costs half as much as what crosses to a thread and
back. But most loops that only send do not last: ``async_to_sync`` and ``asyncio.run`` make one for
a call or a task, and two connections for each would be worse. So a candidate is looked at for a
while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Seconds between two looks, and how much later than that a loop's turn may come.
LOOK = 0.25
#: Seconds that a loop that only sends must have run on, before any such home has ended; each that
#: ends makes the next wait four times as long, up to the longest.
FIRST_TRIAL, TRIAL_GROWTH, LONGEST_TRIAL = 1.0, 4, 3600.0


class Candidate:
    """One loop on trial: ``elected`` is called, there, when it has run on for ``trial`` seconds.

    ``dropped`` is called instead when its turns come late: it runs now and then, or computes.
    Neither is called where the loop ends before that, or nobody is ``wanted`` any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        trial: float,
        elected: Callable[[], None],
        dropped: Callable[[], None],
        wanted: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._until = loop.time() + trial
        self._elected = elected
        self._dropped = dropped
        self._wanted = wanted
        self._expect()

    def _expect(self) -> None:
        self._due = self._loop.time() + LOOK
        self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        if not self._wanted():
            return
        now = self._loop.time()
        if now > self._due + LOOK:
            self._dropped()
        elif now < self._until:
            self._expect()
        else:
            self._elected()
