"""How long one message takes."""

from __future__ import annotations

from typing import ClassVar

from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import Team
from tests.benchmarks.workload import Point, Reading, Workload


class InProcess(Workload):
    """From send to receive within one process."""

    points = (Point({"in_process": "us"}, "from send to receive within a process, p50"),)
    processes = 1
    cannot: ClassVar[dict[str, str]] = {}

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send to a channel of this very process, and receive."""
        number = self.scale.times(2000)
        answer = await team.ask(0, "in_process", number=number)
        return Reading({"in_process": answer["p50"]}, number)


class PingPong(Workload):
    """To another process and back."""

    points: ClassVar[tuple[Point, ...]] = (
        Point({"ping_pong": "us"}, "to another process and back, p50"),
    )
    floor = True
    rounds = 120
    _here = _there = ""

    @property
    def repetitions(self) -> int:
        """Five short ones for each: the speed of a virtual machine may change every few seconds."""
        return 5 * self.scale.repetitions

    async def prepare(self, team: Team) -> None:
        """Have the other process echo."""
        self._here = (await team.ask(0, "channel"))["channel"]
        self._there = (await team.ask(1, "echo", to=self._here))["channel"]
        await self._round_trips(team, 1)

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send one message at a time there and back."""
        number = self.scale.times(self.rounds)
        median = await self._round_trips(team, number)
        return Reading(dict.fromkeys(point.ids, median), 2 * number)

    async def _round_trips(self, team: Team, number: int) -> float:
        request = {"there": self._there, "here": self._here, "number": number}
        return float((await team.ask(0, "round_trips", **request))["p50"])


class PingPongBusy(PingPong):
    """The same beside work that leaves the event loop only for a moment at a time."""

    points = (
        Point({"ping_pong_busy": "us"}, "the same while both event loops are saturated, p50"),
    )
    rounds = 12

    async def measure(self, team: Team, point: Point) -> Reading:
        """Burn CPU on both loops meanwhile."""
        for worker in range(2):
            await team.ask(worker, "burn", on=True)
        try:
            reading = await super().measure(team, point)
            # Without its messages: what is burned is not the price of them.
            return Reading(reading.values)
        finally:
            for worker in range(2):
                await team.ask(worker, "burn", on=False)


def _connected(number: int) -> Point:
    what = f"ping-pong beside {number - 2} processes that are connected and idle, p50"
    return Point({f"connected_{number}": "us"}, what, "processes connected", number, True)


class Connected(PingPong):
    """What processes cost that a message is not for."""

    points = tuple(_connected(number) for number in (2, 8, 16, 32, 64))
    floor = False
    processes = 3

    def note(self, point: Point) -> str | None:
        """Say what stands for a process."""
        pool = self.name == "channels_postgres"
        own = "a listener of its own, and one pool" if pool else "connections of its own"
        return f"The idle ones are layers of one process, each with {own}"

    async def grow(self, team: Team, point: Point) -> None:
        """Add to those that are connected."""
        await team.ask(2, "connect", layers=point.at - 2)


class SyncSend(Workload):
    """How synchronous code sends."""

    points = (
        Point(
            {"sync_send": "us", "sync_send_connections": "connections"},
            "async_to_sync(group_send) from a plain thread, p50; connections opened after the"
            " first call, counted on the server",
        ),
    )

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        super().__init__(name, servers, scale)
        self._sent = 0

    async def prepare(self, team: Team) -> None:
        """One receiver in another process, and the first call."""
        await team.ask(1, "count", channels=1, group="sync")
        await self.reach(team, 1, [1], group="sync")
        await self._send(team, 1)

    async def audit(self, team: Team) -> None:
        """Nothing came twice."""
        await team.ask(1, "audit")

    async def measure(self, team: Team, point: Point) -> Reading:
        """Send from the same plain thread, and see what the server was asked for."""
        number = self.scale.times(300)
        before = self._opened()
        median = await self._send(team, number)
        opened = self._opened() - before
        return Reading({"sync_send": median, "sync_send_connections": opened}, number)

    async def _send(self, team: Team, number: int) -> float:
        answer = await team.ask(0, "sync_send", group="sync", number=number)
        self._sent += number
        await team.ask(1, "wait", received=self._sent)
        return float(answer["p50"])

    def _opened(self) -> int:
        return self.servers.opened(self.place) if self._servers is not None else 0
