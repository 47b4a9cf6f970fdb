"""What a process does that receives: echo, count, join groups, keep a record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from channels.layers import BaseChannelLayer

from tests.benchmarks import probes

#: How many of its calls a process has in flight while it prepares a workload.
AT_ONCE = 10


class MessagesLost(Exception):
    """A layer did not deliver what it had accepted, or delivered it twice."""


async def few_at_once(call: Callable[[int], Awaitable[Any]], numbers: Iterable[int]) -> None:
    """Make a call for each number, a few of them at a time."""
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            await call(number)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


class Receivers:
    """Receives on channels of one layer; each public method is a request of the driver's.

    ``settle`` is how many seconds a probe gets to arrive, ``patience`` how many may pass without a
    message before those that are missing count as lost.
    """

    def __init__(self, layer: BaseChannelLayer, settle: float, patience: float) -> None:
        self._layer = layer
        self._settle = settle
        self._patience = patience
        self._tasks: list[asyncio.Task[None]] = []
        self._channels: list[str] = []
        self._unreached: set[str] = set()
        self._received = 0
        #: Of each channel how many came, one list for those that are to get the same.
        self._counts: list[list[int]] = []
        #: How many are waited for, and that they have come: nobody looks at each one meanwhile.
        self._awaited = 0
        self._complete = asyncio.Event()
        #: (number, seconds it took) of each message, for those that keep a record
        self._record: list[tuple[int, float]] = []

    async def channel(self) -> dict[str, Any]:
        """Return a new channel that receives, though nobody does just now."""
        channel = await self._layer.new_channel()
        await probes.listening(self._layer, channel, self._settle)
        return {"channel": channel}

    async def echo(self, to: str) -> dict[str, Any]:
        """Send whatever comes to a new channel back to another."""
        channel = (await self.channel())["channel"]

        async def run() -> None:
            while True:
                await self._layer.send(to, await probes.receive(self._layer, channel))

        self._begin(run())
        return {"channel": channel}

    async def count(self, channels: int, group: str | None = None) -> dict[str, Any]:
        """Receive on new channels, all members of the group if there is one, and count."""
        if not self._channels:
            await self.channel()
        names = [await self._layer.new_channel() for _ in range(channels)]
        self._counts.append([0] * channels)
        for place, name in enumerate(names):
            self._begin(self._count_on(name, self._counts[-1], place))
        self._channels += names
        self._unreached.update(names)
        if group is not None:
            await few_at_once(
                lambda number: self._layer.group_add(group, names[number]), range(channels)
            )
        return {"channel": names[0]}

    async def work(self, channel: str) -> dict[str, Any]:
        """Receive on a normal channel, one message after the other, and count."""
        self._counts.append([0])
        self._begin(self._count_on(channel, self._counts[-1], 0))
        self._unreached.add(channel)
        return {}

    async def join(self, prefix: str, first: int, last: int) -> dict[str, Any]:
        """Make the channels that are counted members of many groups, one of each."""
        channels = self._channels

        async def add(number: int) -> None:
            await self._layer.group_add(f"{prefix}{number}", channels[number % len(channels)])

        await few_at_once(add, range(first, last))
        return {}

    async def missing(self) -> dict[str, Any]:
        """Return how many of the channels that are counted no probe has reached, after a while."""
        if self._unreached:
            await asyncio.sleep(self._settle)
        return {"missing": len(self._unreached)}

    async def wait(self, received: int) -> dict[str, Any]:
        """Wait until that many messages were counted, and no more."""
        self._awaited = received
        while self._received < received:
            before = self._received
            self._complete.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._complete.wait(), self._patience)
            self._look_after(before, received)
        if self._received > received:
            raise MessagesLost(f"received {self._received - received} messages more than were sent")
        return {"received": self._received}

    async def audit(self, alike: bool = False) -> dict[str, Any]:
        """Look after a while whether more came than was waited for.

        ``alike``: and whether channels that were made together got equally many.
        """
        await asyncio.sleep(self._settle)
        await self.wait(self._awaited)
        if alike and (unlike := [counts for counts in self._counts if len(set(counts)) > 1]):
            low, high = min(unlike[0]), max(unlike[0])
            raise MessagesLost(f"members of one group got {low} to {high} messages")
        return {}

    async def collect(self) -> dict[str, Any]:
        """Receive on a new channel, and keep a record of what came and how late."""
        channel = (await self.channel())["channel"]

        async def run() -> None:
            while True:
                message = await probes.receive(self._layer, channel)
                self._record.append((message["number"], time.monotonic() - message["due"]))
                self._count()

        self._begin(run())
        return {"channel": channel}

    async def collected(self, sent: int) -> dict[str, Any]:
        """Return what became of the messages numbered from 0, and forget them."""
        with contextlib.suppress(MessagesLost):
            await self.wait(self._received - len(self._record) + sent)
        numbers = [number for number, _ in self._record]
        times = [seconds * 1e6 for _, seconds in self._record]
        self._record = []
        different = len(set(numbers))
        return {
            "lost": sent - different,
            "duplicated": len(numbers) - different,
            "out_of_order": sum(after < before for before, after in itertools.pairwise(numbers)),
            "p99": statistics.quantiles(times, n=100)[98] if len(times) > 1 else None,
            "longest": max(times, default=None),
        }

    async def stop(self) -> dict[str, Any]:
        """Receive no more."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        return {}

    async def _count_on(self, channel: str, counts: list[int], place: int) -> None:
        while True:
            message = await self._layer.receive(channel)
            if "probe" in message:
                self._unreached.discard(channel)
                continue
            counts[place] += 1
            self._count()

    def _count(self) -> None:
        self._received += 1
        if self._received >= self._awaited:
            self._complete.set()

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    def _look_after(self, before: int, expected: int) -> None:
        """Report a receiver that has ended, and that no message has come since ``before``."""
        for task in self._tasks:
            if task.done():
                task.result()
        if self._received == before:
            text = f"lost {expected - before} of {expected} messages"
            raise MessagesLost(f"{text}: none came for {self._patience:g} seconds")
