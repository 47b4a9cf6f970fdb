"""Groups: many members, many groups, many processes."""

from __future__ import annotations

import random
import time
from typing import ClassVar

from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import Team
from tests.benchmarks.workload import Point, Reading, Workload


class FanOut(Workload):
    """Messages to a group whose members are spread over several processes."""

    together = True
    warm_up = True

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        super().__init__(name, servers, scale)
        self._sent = [0] * self.processes

    async def audit(self, team: Team) -> None:
        """Each member got each message, once."""
        for worker in range(1, self.processes):
            await team.ask(worker, "audit", alike=True)

    async def _join(self, team: Team, group: str, members: int, processes: int) -> None:
        """Spread members over the first processes after the sender's, and reach them once."""
        receivers = range(1, processes + 1)
        for worker in receivers:
            await team.ask(worker, "count", channels=members // processes, group=group)
        await self.reach(team, 0, receivers, group=group)

    async def _send(
        self, team: Team, group: str, members: int, processes: int, number: int
    ) -> float:
        """Return the deliveries in a second, from the first send to the last member."""
        begun = time.perf_counter()
        await team.ask(0, "group_send", groups=[group], number=number)
        for worker in range(1, processes + 1):
            self._sent[worker] += number * (members // processes)
            await team.ask(worker, "wait", received=self._sent[worker])
        return number * members / (time.perf_counter() - begun)


def _members(number: int, *, extra: bool = True) -> Point:
    what = f"group of {number:,} over two other processes"
    return Point({f"fanout_{number}": "deliveries/s"}, what, "members of a group", number, extra)


class Members(FanOut):
    """What members cost."""

    points = (
        _members(10),
        _members(100),
        _members(1_000, extra=False),
        _members(10_000, extra=False),
    )
    processes = 3

    @property
    def repetitions(self) -> int:
        """Three for each: the fastest layer's take a tenth of a second, and differ by half."""
        return 3 * self.scale.repetitions

    def note(self, point: Point) -> str | None:
        """Fewer members for a short run."""
        return self.scale.note(point.at)

    async def grow(self, team: Team, point: Point) -> None:
        """Another group, of new channels."""
        await self._join(team, f"of_{point.at}", self._large(point), 2)

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send to all of them, about as many deliveries whatever their number."""
        members = self._large(point)
        sends = min(500, self.scale.times(40_000) // members + 4)
        rate = await self._send(team, f"of_{point.at}", members, 2, sends)
        return Reading(dict.fromkeys(point.ids, rate), members * sends)

    def _large(self, point: Point) -> int:
        return self.scale.large(point.at, least=2)


def _processes(number: int) -> Point:
    what = f"group of 960 over {number} other process{'es' if number > 1 else ''}"
    return Point({f"processes_{number}": "deliveries/s"}, what, "processes", number, True)


class ManyProcesses(FanOut):
    """What processes cost: the same members, spread over more of them."""

    points = (_processes(1), _processes(2), _processes(4), _processes(8))
    processes = 9
    _members = 960

    async def grow(self, team: Team, point: Point) -> None:
        """Another group, of new channels."""
        await self._join(team, f"over_{point.at}", self._members, point.at)

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send to all of them."""
        sends = self.scale.times(40)
        rate = await self._send(team, f"over_{point.at}", self._members, point.at, sends)
        return Reading(dict.fromkeys(point.ids, rate), self._members * sends)


def _groups(number: int, *, extra: bool = True) -> Point:
    what = f"group_send with {number:,} groups of one member in another process, p50"
    return Point({f"groups_{number}": "us"}, what, "groups", number, extra)


class ManyGroups(Workload):
    """What groups cost that a message is not for."""

    points = (
        _groups(10, extra=False),
        _groups(100),
        _groups(1_000),
        _groups(10_000),
        _groups(100_000, extra=False),
    )
    warm_up = True
    #: Channels that the groups' members are spread over.
    channels: ClassVar[int] = 100

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        super().__init__(name, servers, scale)
        self._sent = self._groups = 0

    def note(self, point: Point) -> str | None:
        """Fewer groups for a short run."""
        return self.scale.note(point.at) if point.at > self._groups_of(point) else None

    async def prepare(self, team: Team) -> None:
        """The members' channels."""
        await team.ask(1, "count", channels=self.channels, group="all")
        await self.reach(team, 0, [1], group="all")

    async def grow(self, team: Team, point: Point) -> None:
        """Add groups to those there are."""
        wanted = self._groups_of(point)
        await team.ask(1, "join", prefix="group_", first=self._groups, last=wanted)
        self._groups = wanted

    async def audit(self, team: Team) -> None:
        """Nothing came twice."""
        await team.ask(1, "audit")

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send to groups all over the range."""
        number = self.scale.times(300)
        chosen = random.Random(1).choices(range(self._groups_of(point)), k=number)
        median = await self._send(team, [f"group_{group}" for group in chosen], number)
        return Reading(dict.fromkeys(point.ids, median), number)

    async def _send(self, team: Team, groups: list[str], number: int) -> float:
        answer = await team.ask(0, "group_send", groups=groups, number=number)
        self._sent += number
        await team.ask(1, "wait", received=self._sent)
        return float(answer["p50"])

    def _groups_of(self, point: Point) -> int:
        return self.scale.large(point.at, least=10)
