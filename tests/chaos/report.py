"""The figures of the chaos runs as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

HEAD = (
    "| fault | times | sent | lost | twice | out of order | longest gap, s"
    " | resumed after, s: p50 | max | memory, MB | log lines |"
)


@dataclass(frozen=True)
class Row:
    """One fault. Times are in seconds, ``growth`` in bytes.

    ``growth`` and ``lines`` are those of the process that had most; ``lines`` is for all times.
    """

    kind: str
    fault: str
    repetitions: int
    sent: int
    delivered: int
    refused: int = 0
    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    gap: float = 0.0
    #: Empty where there was no load.
    resumes: list[float] = field(default_factory=list)
    growth: int = 0
    lines: int = 0

    @property
    def resume_p50(self) -> float:
        return statistics.median(self.resumes) if self.resumes else 0.0

    @property
    def resume_max(self) -> float:
        return max(self.resumes, default=0.0)

    def cells(self) -> str:
        """Return the row in Markdown."""
        load = "| – | – | – | – | – |"
        if self.resumes:
            times = f"{self.gap:.2f} | {self.resume_p50:.2f} | {self.resume_max:.2f}"
            load = f"| {times} | {self.growth / 1e6:.1f} | {self.lines} |"
        return (
            f"| {self.fault} | {self.repetitions} | {self.sent} | {self.lost} | {self.duplicated}"
            f" | {self.disordered} {load}"
        )

    def line(self) -> str:
        """Return the row as one line of a run's progress."""
        counted = (
            f"{self.kind}: {self.fault}: {self.repetitions} times, {self.sent} sent,"
            f" {self.refused} refused, {self.lost} lost, {self.duplicated} twice,"
            f" {self.disordered} out of order"
        )
        if not self.resumes:
            return counted
        return (
            f"{counted}, gap {self.gap:.2f} s,"
            f" resumed after {self.resume_p50:.2f} s (at most {self.resume_max:.2f}),"
            f" {self.growth / 1e6:.1f} MB, {self.lines} log lines"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for another process."""
        return asdict(self)


def markdown(rows: Iterable[Row], server: str) -> str:
    """Return the table, with when and on what it was made; ``server``: PostgreSQL's version."""
    lines = [_origin(server), "", HEAD, "|---" + "|---:" * 10 + "|"]
    kind = ""
    for row in sorted(rows, key=lambda row: row.kind):  # a stable sort: as they ran
        if row.kind != kind:
            kind = row.kind
            lines.append(f"| **{kind}** |" + " |" * 10)
        lines.append(row.cells())
    return "\n".join(lines) + "\n"


def _origin(server: str) -> str:
    today = datetime.now(timezone.utc).date()
    names = ("psycopg", "channels", "Django")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{today}, {platform.system()} on {_processors()}, Python {platform.python_version()},"
        f" PostgreSQL {server}, {versions}."
    )


def _processors() -> str:
    return f"{os.cpu_count()} cores ({platform.machine()})"
