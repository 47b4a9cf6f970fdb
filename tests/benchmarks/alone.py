"""What one process can measure by itself: in-process delivery, idle channels, credentials."""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
import tracemalloc
from typing import Any

from channels.layers import BaseChannelLayer

from tests.benchmarks import probes
from tests.benchmarks.senders import message


class Alone:
    """Measures within this process; each public method is a request of the driver's."""

    def __init__(self, layer: BaseChannelLayer, settle: float) -> None:
        self._layer = layer
        self._settle = settle
        self._channel = ""

    async def in_process(self, number: int) -> dict[str, Any]:
        """Return the median time from send to receive, in microseconds."""
        if not self._channel:
            self._channel = await self._layer.new_channel()
            await probes.listening(self._layer, self._channel, self._settle)
        times = []
        for count in range(number):
            begun = time.perf_counter()
            await self._layer.send(self._channel, message(count))
            received = await probes.receive(self._layer, self._channel)
            times.append(time.perf_counter() - begun)
            probes.verify(received, message(count))
        return {"p50": statistics.median(times) * 1e6}

    async def idle(self, channels: int) -> dict[str, Any]:
        """Return the bytes that Python holds for each channel with a pending receive()."""
        # One channel first: what a layer sets up once is not what a channel costs.
        await probes.listening(self._layer, await self._layer.new_channel(), self._settle)
        gc.collect()
        tracemalloc.start()
        try:
            tasks = [await self._waiting() for _ in range(channels)]
            held = await self._settled()
        finally:
            tracemalloc.stop()
        done = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if done:
            raise RuntimeError(
                f"{len(done)} of {channels} receivers ended: {done[0].exception()!r}"
            )
        return {"bytes": held / channels}

    async def _settled(self) -> int:
        """Return the memory held when all receivers are set up: when it has ceased to change."""
        before = 0
        for _ in range(probes.ATTEMPTS):
            await asyncio.sleep(self._settle)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
            if abs(held - before) < held / 100:
                break
            before = held
        return held

    async def look_up(self, number: int) -> dict[str, Any]:
        """Return the microseconds for cached credentials, and the fetches of 100 first users."""
        from pg_secrets.source import CredentialSource
        from pg_secrets.testing.adapter import ScriptedAdapter, leases

        adapter = ScriptedAdapter(_slowly(leases()))
        source = CredentialSource(adapter)
        try:
            await asyncio.to_thread(_all_at_once, source.get, 100)
            begun = time.perf_counter()
            for _ in range(number):
                source.get()
            taken = time.perf_counter() - begun
            return {"us": taken / number * 1e6, "fetches": adapter.fetches}
        finally:
            source.close()

    async def _waiting(self) -> asyncio.Task[Any]:
        channel = await self._layer.new_channel()
        task: asyncio.Task[Any] = asyncio.ensure_future(self._layer.receive(channel))
        await asyncio.sleep(0)
        return task


def _slowly(hand_out: Any) -> Any:
    def later() -> Any:
        time.sleep(0.1)
        return hand_out()

    return later


def _all_at_once(call: Any, threads: int) -> None:
    barrier = threading.Barrier(threads)

    def run() -> None:
        barrier.wait()
        call()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
