"""How much goes through in a second."""

from __future__ import annotations

import time
from typing import ClassVar

from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import Team
from tests.benchmarks.workload import Point, Reading, Workload

#: Bytes of one repetition, at most: Redis drops a subscriber that is more than 8 MB behind for a
#: minute, or 32 MB at any time.
_MOST = 16_000_000


class Stream(Workload):
    """Messages to one channel of another process."""

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        super().__init__(name, servers, scale)
        self._channel = ""
        self._sent = 0

    async def prepare(self, team: Team) -> None:
        """One receiver in the other process, reached once."""
        self._channel = (await team.ask(1, "count", channels=1))["channel"]
        await self.reach(team, 0, [1], channel=self._channel)

    async def audit(self, team: Team) -> None:
        """Nothing came twice."""
        await team.ask(1, "audit")

    async def _run(self, team: Team, senders: int, each: int, size: int) -> float:
        """Return the messages received in a second."""
        begun = time.perf_counter()
        request = {"senders": senders, "each": each, "size": size}
        await team.ask(0, "send", channel=self._channel, **request)
        self._sent += senders * each
        await team.ask(1, "wait", received=self._sent)
        return senders * each / (time.perf_counter() - begun)


class Senders50(Stream):
    """Many at once, as in a busy web server."""

    points = (
        Point({"senders_50": "messages/s"}, "50 concurrent senders, another process receives"),
    )
    floor = True

    async def measure(self, team: Team, point: Point) -> Reading:
        """50 tasks send, each awaiting one send after the other."""
        each = self.scale.times(100)
        return Reading({"senders_50": await self._run(team, 50, each, 200)}, 50 * each)


class NormalChannel(Stream):
    """Work that waits for a worker."""

    points = (
        Point(
            {"normal_channel": "messages/s"},
            "10 concurrent senders to a normal channel that another process reads, one by one",
        ),
    )
    #: What others leave out, of what a normal channel is for.
    less: ClassVar[dict[str, str]] = {
        "channels_postgres": "One process at a time reads a channel, and holds a lock for that",
        "channels_redis_pubsub": "A normal channel is a subscription: nothing waits there, and"
        " every process that reads gets every message",
    }

    def note(self, point: Point) -> str | None:
        """What a layer does instead of sharing the work out."""
        return self.less.get(self.name)

    async def prepare(self, team: Team) -> None:
        """One receiver, as in a worker process, reached once."""
        self._channel = "work"
        await team.ask(1, "work", channel=self._channel)
        await self.reach(team, 0, [1], channel=self._channel)

    async def measure(self, team: Team, point: Point) -> Reading:
        """10 tasks send, each awaiting one send after the other, until the last was received."""
        each = self.scale.times(200)
        return Reading({"normal_channel": await self._run(team, 10, each, 200)}, 10 * each)


def _size(row_id: str, size: int, *, extra: bool = True) -> Point:
    what = f"messages of {size:,} bytes from 10 concurrent senders"
    return Point({row_id: "messages/s"}, what, "bytes of a message", size, extra)


class Sizes(Stream):
    """What a message's size costs."""

    together = True

    points = (
        _size("large_100", 100),
        _size("large_1k", 1_000),
        _size("large_10k", 10_000),
        _size("large_100k", 100_000, extra=False),
        _size("large_1m", 1_000_000),
    )

    async def measure(self, team: Team, point: Point) -> Reading:
        """10 tasks send messages of this size."""
        each = min(self.scale.times(100), _MOST // point.at // 10)
        rate = await self._run(team, 10, each, point.at)
        return Reading(dict.fromkeys(point.ids, rate), 10 * each)
