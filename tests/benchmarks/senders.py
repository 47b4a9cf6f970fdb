"""What a process does that sends, and measures how long that takes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import BaseChannelLayer

from tests.benchmarks import probes

#: Bytes of a message unless a workload says otherwise, and of what is not its padding.
SIZE = 200
_FRAME = 48
#: A step of the busy loop: about a millisecond of pure Python on a machine of 2024.
BURNED = 30_000


def message(number: int, size: int = SIZE) -> dict[str, Any]:
    """Return a message of about ``size`` bytes."""
    return {"type": "bench.message", "number": number, "padding": "x" * (size - _FRAME)}


class Senders:
    """Sends through one layer; each public method is a request of the driver's."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        self._layer = layer
        self._burner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    async def probe(self, channel: str | None = None, group: str | None = None) -> dict[str, Any]:
        """Send a probe to a channel or a group."""
        if channel is not None:
            await self._layer.send(channel, probes.probe())
        if group is not None:
            await self._layer.group_send(group, probes.probe())
        return {}

    async def round_trips(self, there: str, here: str, number: int) -> dict[str, Any]:
        """Return the median time, in microseconds, for a message there and one back."""
        times = []
        for count in range(number):
            begun = time.perf_counter()
            await self._layer.send(there, message(count))
            received = await probes.receive(self._layer, here)
            times.append(time.perf_counter() - begun)
            probes.verify(received, message(count))
        return {"p50": statistics.median(times) * 1e6}

    async def burn(self, on: bool) -> dict[str, Any]:
        """Saturate this event loop with work of its own, in steps, or stop that."""
        if self._burner is not None:
            self._burner.cancel()
            self._burner = None
        if on:
            self._burner = asyncio.ensure_future(_burn())
        return {}

    async def send(self, channel: str, senders: int, each: int, size: int = SIZE) -> dict[str, Any]:
        """Send from several tasks at once; return the seconds until all was accepted."""

        async def run() -> None:
            for number in range(each):
                await self._layer.send(channel, message(number, size))

        begun = time.perf_counter()
        await asyncio.gather(*(run() for _ in range(senders)))
        return {"seconds": time.perf_counter() - begun}

    async def pour(self, channel: str, tasks: int, seconds: float) -> dict[str, Any]:
        """Send from several tasks for so long, and at least once; return how many were sent."""
        numbers = itertools.count()
        until = time.monotonic() + seconds

        async def run() -> None:
            while True:
                now = time.monotonic()
                await self._layer.send(channel, {**message(next(numbers)), "due": now})
                if time.monotonic() >= until:
                    return

        await asyncio.gather(*(run() for _ in range(tasks)))
        return {"sent": next(numbers)}

    async def group_send(self, groups: list[str], number: int) -> dict[str, Any]:
        """Send to each group in turn; return the median time of a call in microseconds."""
        times = []
        for count in range(number):
            begun = time.perf_counter()
            await self._layer.group_send(groups[count % len(groups)], message(count))
            times.append(time.perf_counter() - begun)
        return {"p50": statistics.median(times) * 1e6}

    async def sync_send(self, group: str, number: int) -> dict[str, Any]:
        """Do the same as synchronous code does, from a plain thread: the same one each time."""

        def run() -> list[float]:
            times = []
            for count in range(number):
                begun = time.perf_counter()
                async_to_sync(self._layer.group_send)(group, message(count))
                times.append(time.perf_counter() - begun)
            return times

        times = await asyncio.wrap_future(self._thread.submit(run))
        return {"p50": statistics.median(times) * 1e6}

    async def paced(self, channel: str, rate: float, number: int) -> dict[str, Any]:
        """Send at a steady rate; each message knows when it was due, however late it is sent."""
        begun = time.monotonic()
        for count in range(number):
            due = begun + count / rate
            # Without it, waiting for one message would hide how late the next ones are.
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            await self._layer.send(channel, {**message(count), "due": due})
        return {}


async def _burn() -> None:
    while True:
        sum(range(BURNED))
        await asyncio.sleep(0)
