"""One run: prepares each workload for all layers, then measures them in turn, again and again."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from tests.benchmarks.contenders import NAMES
from tests.benchmarks.nursery import Nursery
from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import CannotDo, Processes, Team
from tests.benchmarks.workload import NO_ROTATION, Point, Reading, Workload, takes_part, why_not
from tests.benchmarks.workloads.catalogue import POINTS

Row = dict[str, Any]
Say = Callable[[str], None]
MakeTeam = Callable[[Workload], Team]
PointsOf = Callable[[type[Workload]], list[Point]]


class Contestant:
    """One layer in one workload: its processes, its figures, and why it failed if it did."""

    def __init__(self, workload: Workload, servers: Servers | None) -> None:
        self.workload = workload
        self.failure: str | None = None
        self._servers = servers
        self._team: Team | None = None
        self._readings: dict[Point, list[Reading]] = {}
        self._costs: dict[Point, list[dict[str, float]]] = {}

    async def prepare(self, make_team: MakeTeam) -> None:
        """Start the processes and set them up."""
        self._team = await self._tried(_made(make_team, self.workload))
        if self._team is not None:
            await self._tried(self.workload.prepare(self._team))

    async def grow(self, point: Point) -> None:
        """Set up one point."""
        if self._team is not None and self.failure is None:
            await self._tried(self.workload.grow(self._team, point))

    async def measure(self, point: Point) -> None:
        """Measure once, with what it costs."""
        if self._team is None or self.failure is not None:
            return
        before = await self._tried(self._usage(self._team, reset=True))
        reading = before and await self._tried(self.workload.measure(self._team, point))
        after = reading and await self._tried(self._usage(self._team))
        if not after:
            return
        self._readings.setdefault(point, []).append(reading)
        if reading.messages:
            cost = {
                "cpu_us": (after["cpu"] - before["cpu"]) * 1e6,
                "server_cpu_us": (after["server"] - before["server"]) * 1e6,
                "memory_bytes": max(0.0, after["peak"] - before["resident"]),
            }
            per_message = {name: value / reading.messages for name, value in cost.items()}
            self._costs.setdefault(point, []).append(per_message)

    async def warm_up(self, point: Point) -> None:
        """Measure once for nothing."""
        if self._team is not None and self.failure is None:
            await self._tried(self.workload.measure(self._team, point))

    async def audit(self) -> None:
        """Look whether anything came that nobody waited for."""
        if self._team is not None and self.failure is None:
            await self._tried(self.workload.audit(self._team))

    async def dismiss(self) -> None:
        """End the processes."""
        if self._team is not None:
            await self._team.dismiss()

    def rows(self, point: Point) -> list[Row]:
        """Return the rows of one point."""
        readings = self._readings.get(point, [])
        reason = self.failure
        rows = []
        for row_id, unit in point.ids.items():
            row = empty_row(self.workload.name, point, row_id, unit)
            values = _flattened(
                [reading.values[row_id] for reading in readings if row_id in reading.values]
            )
            if values and reason is None:
                row["median"] = statistics.median(values)
                row["spread"] = [min(values), max(values)]
                row["values"] = values
            else:
                row["reason"] = reason or NO_ROTATION[self.workload.name]
            if costs := self._costs.get(point):
                row["per_message"] = _medians(costs)
            if details := [reading.details for reading in readings if reading.details]:
                row["details"] = _medians(details)
            if note := self.workload.note(point):
                row["note"] = note
            rows.append(row)
        return rows

    async def _usage(self, team: Team, *, reset: bool = False) -> dict[str, float]:
        server = self._servers.cpu(self.workload.name) if self._servers is not None else 0.0
        found = [await team.ask(number, "usage", reset=reset) for number in range(len(team))]
        total = {name: sum(one[name] for one in found) for name in ("cpu", "resident", "peak")}
        return {**total, "server": server}

    async def _tried(self, work: Any) -> Any:
        try:
            return await work
        except CannotDo as error:
            # A layer that fails is a finding; whatever else is raised is a fault of ours.
            self.failure = f"failed: {str(error).strip(': ')}"
            return None


def measure(
    names: Sequence[str],
    workloads: Sequence[type[Workload]],
    points: PointsOf,
    scale: Scale,
    servers: Servers,
    nursery: Nursery,
    say: Say,
) -> list[Row]:
    """Measure everything; returns the rows of the report."""

    def make_team(workload: Workload) -> Team:
        return Processes(nursery, workload.name, workload.places(), scale.limit)

    rows = []
    for kind in (kind for kind in workloads if points(kind)):
        able = []
        for name in (name for name in names if takes_part(kind, name)):
            if (reason := why_not(kind, name) or _absent(servers, name)) is not None:
                for point in points(kind):
                    rows += [
                        {**empty_row(name, point, row_id, unit), "reason": reason}
                        for row_id, unit in point.ids.items()
                    ]
            else:
                able.append(Contestant(kind(name, servers, scale), servers))
        if able:
            rows += asyncio.run(contest(able, points(kind), scale, make_team, say))
    order = list(POINTS)
    return sorted(rows, key=lambda row: (order.index(row["workload"]), NAMES.index(row["layer"])))


async def contest(
    contestants: Sequence[Contestant],
    points: Sequence[Point],
    scale: Scale,
    make_team: MakeTeam,
    say: Say,
) -> list[Row]:
    """Let some layers do one workload, repetitions interleaved."""
    rows = []
    try:
        say(f"{next(iter(points[0].ids))}: preparing")
        await asyncio.gather(*(contestant.prepare(make_team) for contestant in contestants))
        workload = contestants[0].workload
        for some in [points] if workload.together else [[point] for point in points]:
            for point in some:
                await asyncio.gather(*(contestant.grow(point) for contestant in contestants))
            if workload.warm_up:
                for point, contestant in product(some, contestants):
                    await contestant.warm_up(point)
            begun = time.monotonic()
            share = None if scale.share is None else scale.share * len(some)
            for turn in range(workload.repetitions):
                if turn and share is not None and time.monotonic() - begun > share:
                    break
                # Another one first each time, as what a busy one leaves slows down the next.
                first = turn % len(contestants)
                order = [*contestants[first:], *contestants[:first]]
                for point, contestant in product(some, order):
                    name = contestant.workload.name
                    say(f"{next(iter(point.ids))}: {turn + 1} of {workload.repetitions}, {name}")
                    await contestant.measure(point)
        await asyncio.gather(*(contestant.audit() for contestant in contestants))
        for point, contestant in product(points, contestants):
            rows += contestant.rows(point)
    finally:
        for contestant in contestants:
            await contestant.dismiss()
            contestant.workload.close()
    return rows


def empty_row(name: str, point: Point, row_id: str, unit: str) -> Row:
    """Return a row without a figure."""
    row: Row = {"workload": row_id, "layer": name, "median": None, "unit": unit, "spread": None}
    if point.growth is not None:
        row |= {"growth": point.growth, "at": point.at}
    return row


def _absent(servers: Servers, name: str) -> str | None:
    reason = servers.missing(name)
    return None if reason is None else f"cannot: {reason}"


async def _made(call: MakeTeam, workload: Workload) -> Team:
    return call(workload)


def _flattened(values: list[float | list[float]]) -> list[float]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _medians(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = found[0]
    known = {name: [one[name] for one in found if one[name] is not None] for name in names}
    return {name: statistics.median(values) for name, values in known.items() if values}
