"""The goals, and whether a run reached them. All goals stand here and nowhere else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.contenders import OURS

_COMPARE: dict[str, Callable[[float, float], bool]] = {"≤": operator.le, "≥": operator.ge}
_CHANNELS_POSTGRES, _CORE, _PUBSUB = "channels_postgres", "channels_redis", "channels_redis_pubsub"


@dataclass(frozen=True)
class Goal:
    """Our figure of a workload, at most or at least ``limit`` (times another figure, if given).

    ``always``: one repetition that misses it is one too many.
    """

    workload: str
    relation: str
    limit: float
    layer: str | None = None
    other: str | None = None
    always: bool = False

    @property
    def absolute(self) -> bool:
        """Whether it is a figure and not a ratio."""
        return self.layer is None and self.other is None

    @property
    def against(self) -> tuple[str, str]:
        """The workload and the layer that a ratio is to."""
        return self.other or self.workload, self.layer or OURS


GOALS = (
    Goal("ping_pong", "≤", 1.0, "floor"),
    Goal("ping_pong", "≤", 0.3, _CHANNELS_POSTGRES),
    Goal("ping_pong", "≤", 0.3, _CORE),
    Goal("ping_pong", "≤", 0.8, _PUBSUB),
    Goal("ping_pong_busy", "≤", 0.8, _PUBSUB),
    Goal("in_process", "≤", 2.0, "memory"),
    Goal("senders_50", "≥", 6.0, _CHANNELS_POSTGRES),
    Goal("senders_50", "≥", 4.0, _CORE),
    Goal("senders_50", "≥", 4.0, _PUBSUB),
    Goal("fanout_1000", "≥", 5.0, _CHANNELS_POSTGRES),
    Goal("fanout_1000", "≥", 5.0, _CORE),
    Goal("fanout_1000", "≥", 1.2, _PUBSUB),
    Goal("fanout_10000", "≥", 0.8, other="fanout_1000"),
    Goal("groups_100000", "≤", 1.3, other="groups_10"),
    Goal("sync_send", "≤", 0.5, _CORE),
    Goal("sync_send", "≤", 0.5, _PUBSUB),
    Goal("sync_send_connections", "≤", 0, always=True),
    Goal("large_100k", "≥", 2.0, _CHANNELS_POSTGRES),
    Goal("rotation_lost", "≤", 0, always=True),
    Goal("rotation_duplicated", "≤", 0, always=True),
    Goal("rotation", "≤", 2.0, other="rotation_without"),
    Goal("connections", "≤", 2, always=True),
    Goal("connections_hand_over", "≤", 4, always=True),
    Goal("idle_channel", "≤", 2048),
    Goal("tables", "≤", 1024 * 1024),
    Goal("credential_lookup", "≤", 2),
    Goal("credential_first_users", "≤", 1, always=True),
)


@dataclass(frozen=True)
class Verdict:
    """A goal and what a run says of it: None where it says nothing."""

    goal: Goal
    figure: float | None
    reached: bool | None


def judge(rows: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Return what a run says of each goal whose workload it measured.

    A failure of ours reaches no goal. Where the other layer has no figure, there is nothing to say.
    """
    found = {(row["workload"], row["layer"]): row for row in rows}
    verdicts = []
    for goal in GOALS:
        ours = found.get((goal.workload, OURS))
        if ours is None:
            continue
        if ours["median"] is None:
            verdicts.append(Verdict(goal, None, False))
            continue
        figure = ours["spread"][1] if goal.always else ours["median"]
        if not goal.absolute:
            other = found.get(goal.against, {}).get("median")
            figure = figure / other if other else None
        reached = None if figure is None else _COMPARE[goal.relation](figure, goal.limit)
        verdicts.append(Verdict(goal, figure, reached))
    return verdicts
