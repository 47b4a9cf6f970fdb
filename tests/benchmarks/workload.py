"""What a workload is: prepared once for each layer, then measured again and again, interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.benchmarks import contenders, probes
from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import CannotDo, Team

NO_ROTATION = {
    "channels_postgres": "cannot: its login is fixed when it is built",
    **dict.fromkeys(
        contenders.ON_REDIS,
        'cannot: by itself it has one login; `ENGINE = "redis"` gives it one that rotates',
    ),
    "memory": "cannot: it has no login",
}
ONE_PROCESS = {"memory": "cannot: it reaches no other process"}


@dataclass(frozen=True, eq=False)
class Point:
    """One thing to measure: ``ids`` are the rows it gives, with their units.

    ``at`` is its place on the axis ``growth``, where it is one of several; points that are
    ``extra`` are measured only when growth is asked for.
    """

    ids: dict[str, str]
    what: str
    growth: str | None = None
    at: int = 0
    extra: bool = False


@dataclass(frozen=True)
class Reading:
    """The figures of one repetition by row id, and how many messages were delivered for them.

    A list of figures stands for as many repetitions, made side by side.
    """

    values: dict[str, float | list[float]]
    messages: int = 0
    details: dict[str, float | None] = field(default_factory=dict)


class Workload:
    """One layer's part in a workload. Subclasses say what is done; an instance does it once."""

    #: The rows it gives, in the order of the report; the first points are what ``--quick`` does.
    points: ClassVar[tuple[Point, ...]]
    #: Why a layer cannot do it, for those that cannot.
    cannot: ClassVar[dict[str, str]] = ONE_PROCESS
    #: Whether all its points can be set up before the first is measured: they take turns then.
    together: ClassVar[bool] = False
    #: Whether each point is measured once for nothing, before its turns.
    warm_up: ClassVar[bool] = False
    #: Whether the bare floor can stand in for a layer.
    floor: ClassVar[bool] = False
    processes: ClassVar[int] = 2

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        self.name = name
        self.scale = scale
        self._servers = servers
        self.places_made: list[dict[str, Any]] = []

    @property
    def servers(self) -> Servers:
        """The servers of this run."""
        assert self._servers is not None
        return self._servers

    @property
    def place(self) -> dict[str, Any]:
        """Where this layer works."""
        return self.places_made[0] if self.places_made else {}

    @property
    def repetitions(self) -> int:
        """How often it is measured."""
        return self.scale.repetitions

    def places(self) -> list[dict[str, Any]]:
        """Return the place of each process: by default all share one."""
        return [self.new_place()] * self.processes

    def new_place(self) -> dict[str, Any]:
        """Make a place, and remember to remove it."""
        waits = {"settle": self.scale.settle, "patience": self.scale.patience}
        place = {**self.servers.place(self.name), **waits}
        self.places_made.append(place)
        return place

    def note(self, point: Point) -> str | None:
        """Return what has to be said of a row, if anything."""
        return None

    async def prepare(self, team: Team) -> None:
        """Set up what all points share."""

    async def grow(self, team: Team, point: Point) -> None:
        """Set up one point."""

    async def measure(self, team: Team, point: Point) -> Reading:
        """Do the work once. Raises CannotDo, also when a message was lost."""
        raise NotImplementedError

    async def audit(self, team: Team) -> None:
        """Look at the end whether anything came that nobody waited for. Raises CannotDo."""

    async def reach(self, team: Team, sender: int, receivers: Sequence[int], **to: str) -> None:
        """Send probes to a channel or a group until all that is counted is reached."""
        for _ in range(probes.ATTEMPTS):
            await team.ask(sender, "probe", **to)
            missing = [(await team.ask(one, "missing"))["missing"] for one in receivers]
            if not any(missing):
                return
        raise CannotDo(f"{sum(missing)} receivers were not reached by {probes.ATTEMPTS} messages")

    def close(self) -> None:
        """Remove what was made outside of the processes."""
        for place in self.places_made:
            self.servers.clear(place)


def why_not(workload: type[Workload], name: str) -> str | None:
    """Return why a layer cannot do a workload, or None."""
    return workload.cannot.get(name)


def takes_part(workload: type[Workload], name: str) -> bool:
    """Say whether a layer has a row at all: the floor has one only where it stands in for one."""
    return name in contenders.NAMES and (name not in contenders.FLOORS or workload.floor)
