"""All workloads, in the order of the report."""

from __future__ import annotations

from tests.benchmarks.workload import Point, Workload
from tests.benchmarks.workloads import groups, latency, throughput, upkeep

ALL: tuple[type[Workload], ...] = (
    latency.PingPong,
    latency.PingPongBusy,
    latency.InProcess,
    throughput.Senders50,
    throughput.NormalChannel,
    groups.Members,
    groups.ManyGroups,
    latency.SyncSend,
    throughput.Sizes,
    upkeep.Rotation,
    upkeep.Connections,
    upkeep.IdleChannel,
    upkeep.Tables,
    upkeep.CredentialLookup,
    groups.ManyProcesses,
    latency.Connected,
)

#: Every row's id -> the point it belongs to.
POINTS: dict[str, Point] = {
    row_id: point for workload in ALL for point in workload.points for row_id in point.ids
}


def chosen(ids: list[str] | None) -> list[type[Workload]]:
    """Return the workloads that give these rows, or all.

    Raises:
        ValueError: there is no such row.
    """
    if ids is None:
        return list(ALL)
    if unknown := set(ids) - set(POINTS):
        raise ValueError(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(POINTS)}")
    return [
        workload
        for workload in ALL
        if any(row_id in point.ids for point in workload.points for row_id in ids)
    ]


def less_is_better(row_id: str) -> bool:
    """Say which direction is better, by the unit."""
    return not POINTS[row_id].ids[row_id].endswith("/s")
