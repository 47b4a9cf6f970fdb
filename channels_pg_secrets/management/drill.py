"""A rehearsal of a rotation: messages flow while two processes' worth of connections move.

It uses channels and connections of its own, so that what goes wrong harms nobody: the processes of
the layer take no part. What it shows holds for them, as they move in the same way.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from channels_pg_secrets.blocking import blocking
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.timeouts import timeout

#: Seconds between two messages.
INTERVAL = 0.01
#: Seconds that messages flow before and after the move, by default.
FLOW = 2.0
#: Seconds until the last messages must have arrived.
DRAIN = 10.0


@dataclass
class Drill:
    """What came of it; all times in seconds."""

    layer: str
    sent: int = 0
    received: list[int] = field(default_factory=list)
    #: How long fetching took, and moving all four connections; None: there is no store.
    fetched_in: float | None = None
    moved_in: float = 0.0
    #: The credentials' generation and user before and after.
    generations: list[int] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    #: Between two arrivals, at most, from the move on.
    longest_gap: float = 0.0

    @property
    def lost(self) -> int:
        """Messages that have not arrived."""
        return self.sent - len(set(self.received))

    @property
    def duplicated(self) -> int:
        """Arrivals of a message that had arrived before."""
        return len(self.received) - len(set(self.received))

    @property
    def out_of_order(self) -> int:
        """Arrivals after that of a later message."""
        pairs = zip(self.received, self.received[1:])  # noqa: B905 - one shorter than the other
        return sum(later < earlier for earlier, later in pairs)

    @property
    def passed(self) -> bool:
        """Nothing was lost, repeated or overtaken."""
        return not (self.lost or self.duplicated or self.out_of_order)

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "layer": self.layer,
            "passed": self.passed,
            "sent": self.sent,
            "received": len(self.received),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "out_of_order": self.out_of_order,
            "fetch_seconds": None if self.fetched_in is None else round(self.fetched_in, 4),
            "move_seconds": round(self.moved_in, 4),
            "longest_gap_seconds": round(self.longest_gap, 4),
            "generations": self.generations,
            "users": self.users,
        }

    def as_text(self) -> str:
        """Return the same for a person."""
        before, after = self.users
        login = f"as {before} again" if before == after else f"from {before} to {after}"
        fetched = (
            "the login stands in the settings, or with the engine's backend"
            if self.fetched_in is None
            else f"fetched in {1000 * self.fetched_in:.0f} ms: generation"
            f" {self.generations[0]} before, {self.generations[1]} after"
        )
        return (
            f"Drill of channel layer {self.layer!r}: {'passed' if self.passed else 'FAILED'}\n"
            f"  {fetched}\n"
            f"  moved 4 connections in {1000 * self.moved_in:.0f} ms, {login}\n"
            f"  sent {self.sent}, received {len(self.received)}, lost {self.lost}, duplicated"
            f" {self.duplicated}, out of order {self.out_of_order}; longest gap"
            f" {1000 * self.longest_gap:.0f} ms\n"
        )


def rehearse(engine: PostgresEngine, layer: str, flow: float = FLOW) -> Drill:
    """Fetch afresh, and move while messages flow for ``flow`` seconds before and after; blocks.

    Raises:
        ChannelLayerUnavailable: the database cannot be reached, or the move did not come about.
        CredentialsError: the store gave nothing.
    """
    return blocking(lambda: _rehearsed(engine, layer, flow))


async def _rehearsed(engine: PostgresEngine, alias: str, flow: float) -> Drill:
    sender, receiver = engine.channel_layer(), engine.channel_layer()
    assert isinstance(sender, PostgresChannelLayer)  # noqa: S101 - the engine's promise
    assert isinstance(receiver, PostgresChannelLayer)  # noqa: S101 - as above
    drill = Drill(alias)
    arrivals: list[float] = []
    try:
        channel = await receiver.new_channel("drill")
        stop = asyncio.Event()
        receiving = asyncio.create_task(_receive(receiver, channel, drill, arrivals))
        sending = asyncio.create_task(_send(sender, channel, drill, stop))
        try:
            await _flow(flow, sending, receiving)
            begun = time.monotonic()
            await _move(engine, drill, sender, receiver)
            await _flow(flow, sending, receiving)
            stop.set()
            await sending
            await _drain(drill)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
    finally:
        await asyncio.gather(sender.close(), receiver.close())
    late = [at for at in arrivals if at >= begun]
    drill.longest_gap = max((b - a for a, b in zip([begun, *late], late)), default=0.0)  # noqa: B905
    return drill


async def _flow(seconds: float, *tasks: asyncio.Task[None]) -> None:
    """Let messages flow; if a task fails meanwhile, so does this."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _send(
    layer: PostgresChannelLayer, channel: str, drill: Drill, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        await layer.send(channel, {"type": "drill", "number": drill.sent})
        drill.sent += 1
        await asyncio.sleep(INTERVAL)


async def _receive(
    layer: PostgresChannelLayer, channel: str, drill: Drill, arrivals: list[float]
) -> None:
    while True:
        message = await layer.receive(channel)
        arrivals.append(time.monotonic())
        drill.received.append(message["number"])


async def _move(
    engine: PostgresEngine,
    drill: Drill,
    sender: PostgresChannelLayer,
    receiver: PostgresChannelLayer,
) -> None:
    _note_login(sender, drill)
    if engine.source is not None:
        begun = time.monotonic()
        await asyncio.to_thread(engine.source.refresh)
        drill.fetched_in = time.monotonic() - begun
    begun = time.monotonic()
    await asyncio.gather(sender.reconnect(), receiver.reconnect())
    drill.moved_in = time.monotonic() - begun
    _note_login(sender, drill)


def _note_login(layer: PostgresChannelLayer, drill: Drill) -> None:
    opened = layer.status()["connections"][0]
    drill.generations.append(opened["generation"])
    drill.users.append(opened["user"])


async def _drain(drill: Drill) -> None:
    async def arrived() -> None:
        while drill.lost:  # noqa: ASYNC110 - the receiver need not know that somebody waits
            await asyncio.sleep(INTERVAL)

    try:
        async with timeout(DRAIN):
            await arrived()
    except asyncio.TimeoutError:
        return  # they are lost, and counted
