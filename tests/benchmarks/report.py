"""What is printed and written: tables in Markdown, and the same as JSON."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.goals import Verdict
from tests.benchmarks.scale import FULL
from tests.benchmarks.workload import Point
from tests.benchmarks.workloads.catalogue import POINTS

Row = dict[str, Any]
_PACKAGES = ("channels-pg-secrets", "channels", "channels_postgres", "channels_redis", "Django")
_DRIVERS = ("psycopg", "redis", "hiredis", "uvloop")
_NONE = "–"
_SMALLER = "The goals are for a whole run; this is a smaller one, and says less."


def machine() -> str:
    """Return the processor, its cores and the operating system."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions(servers: dict[str, str]) -> dict[str, str]:
    """Return what was measured with, as far as it is installed."""
    found = {"Python": platform.python_version(), **servers}
    for name in (*_PACKAGES, *_DRIVERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    if find_spec("uvloop"):
        found["uvloop"] += " (installed, not used)"
    found["channels-pg-secrets"] += f" ({revision()})"
    return found


def revision() -> str:
    """Return the commit that is measured, "dirty" with changes, as far as git knows."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return done.stdout.strip()


def report(rows: list[Row], verdicts: Sequence[Verdict], **facts: Any) -> dict[str, Any]:
    """Return all there is to know of a run, for JSON."""
    return {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **facts,
        "rows": rows,
        "goals": [
            {
                "workload": verdict.goal.workload,
                "goal": wanted(verdict),
                "figure": verdict.figure,
                "reached": verdict.reached,
            }
            for verdict in verdicts
        ],
    }


def markdown(found: dict[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Return the tables of a report."""
    rows: list[Row] = found["rows"]
    plain = [row for row in rows if not _extra(row)]
    parts = [facts(found), "### Figures", figures(plain)]
    if verdicts:
        smaller = [] if found["scale"] == FULL.name else [_SMALLER]
        parts += ["### Goals", *smaller, goals(verdicts)]
    if any("per_message" in row for row in rows):
        parts += ["### Cost of a message", costs(plain)]
    if grown := [row for row in rows if "growth" in row]:
        parts += ["### Growth", growth(grown)]
    if remarks := list(_remarks(rows)):
        parts += ["### Remarks", "\n".join(remarks)]
    return "\n\n".join(parts)


def facts(found: dict[str, Any]) -> str:
    """Return what was measured, where, when and with what."""
    used = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    settings = ", ".join(f"{name}={value}" for name, value in found["settings"].items())
    return (
        f"{found['date']}, {found['machine']}. Scale: {found['scale']}, medians of"
        f" {repetitions(found['rows'])} with the lowest and the highest."
        f" {used}. PostgreSQL with {settings}. Command: `{found['command']}`."
    )


def repetitions(rows: Sequence[Row]) -> str:
    """Return how often workloads were measured: most of them, and those for which it differs."""
    numbers: dict[str, set[int]] = {}
    for row in rows:
        if values := row.get("values"):
            numbers.setdefault(row["workload"], set()).add(len(values))
    workloads: dict[tuple[int, ...], list[str]] = {}
    for workload, found in numbers.items():
        workloads.setdefault(tuple(sorted(found)), []).append(f"`{workload}`")
    if not workloads:
        return "no repetitions"
    most = max(workloads, key=lambda found: len(workloads[found]))
    others = [
        f"{_either(found)} for {', '.join(names)}"
        for found, names in workloads.items()
        if found != most
    ]
    text = f"{_either(most)} interleaved repetitions"
    return f"{text} ({'; '.join(others)})" if others else text


def figures(rows: Sequence[Row]) -> str:
    """Return a line for each workload, a column for each layer."""

    def cell(row: Row | None) -> str:
        if row is None:
            return _NONE
        if row["median"] is None:
            return str(row["reason"]).partition(":")[0]
        low, high = row["spread"]
        median = _number(row["median"])
        return median if low == high else f"{median} ({_number(low)}–{_number(high)})"

    return _table(rows, cell)


def goals(verdicts: Sequence[Verdict]) -> str:
    """Return a line for each goal, and whether it was reached."""
    lines = ["| workload | goal | figure | reached |", "|---|---|---|---|"]
    for verdict in verdicts:
        figure = _NONE if verdict.figure is None else _number(verdict.figure)
        reached = {True: "yes", False: "**no**", None: _NONE}[verdict.reached]
        goal = verdict.goal
        lines.append(f"| `{goal.workload}` | {wanted(verdict)} | {figure} | {reached} |")
    return "\n".join(lines)


def wanted(verdict: Verdict) -> str:
    """Return a goal in words."""
    goal = verdict.goal
    if goal.absolute:
        return f"{goal.relation} {_number(goal.limit)} {POINTS[goal.workload].ids[goal.workload]}"
    workload, layer = goal.against
    return f"{goal.relation} {goal.limit:g} × {layer if goal.other is None else f'`{workload}`'}"


def costs(rows: Sequence[Row]) -> str:
    """Return what a message costs, and what that is."""
    return (
        "CPU of all processes of the layer + of the server; peak memory of the processes above"
        " where the repetition began. A message is one delivery.\n\n" + _costs(rows)
    )


def _costs(rows: Sequence[Row]) -> str:
    """Return CPU of all a layer's processes + of the server, and memory, for each message."""

    def cell(row: Row | None) -> str:
        cost = (row or {}).get("per_message")
        if cost is None:
            return _NONE
        cpu, server = _number(cost["cpu_us"]), _number(cost["server_cpu_us"])
        return f"{cpu} + {server} µs, {_number(cost['memory_bytes'])} B"

    known = [row for row in rows if "per_message" in row and _first(row)]
    return _table(known, cell, units=False)


def growth(rows: Sequence[Row]) -> str:
    """Return how figures change along an axis, and with them what a message costs."""
    parts = []
    for axis in dict.fromkeys(row["growth"] for row in rows):
        along = [row for row in rows if row["growth"] == axis]
        parts += [f"By {axis}:", figures(along)]
        if any("per_message" in row for row in along):
            parts += ["What a message costs there:", _costs(along)]
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], cell: Any, *, units: bool = True) -> str:
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    cells = {(row["workload"], row["layer"]): row for row in rows}
    lines = ["| | " + " | ".join(layers) + " |", "|---" * (len(layers) + 1) + "|"]
    for row_id in dict.fromkeys(row["workload"] for row in rows):
        unit = f", {POINTS[row_id].ids[row_id].replace('us', 'µs')}" if units else ""
        found = [cell(cells.get((row_id, layer))) for layer in layers]
        lines.append(f"| `{row_id}`{unit} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _remarks(rows: Sequence[Row]) -> Iterable[str]:
    """What a workload is, once each, and why a figure is missing or not what its name says."""
    for point in dict.fromkeys(POINTS[row["workload"]] for row in rows):
        yield f"- `{'`, `'.join(point.ids)}`: {point.what}."
    said: dict[tuple[Point, str], tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        for key in ("reason", "note"):
            if key in row:
                workloads, layers = said.setdefault((POINTS[row["workload"]], row[key]), ({}, {}))
                workloads[f"`{row['workload']}`"] = layers[row["layer"]] = None
    for (_, text), (workloads, layers) in said.items():
        yield f"- {', '.join(workloads)}, {', '.join(layers)}: {text}."


def _extra(row: Row) -> bool:
    return POINTS[str(row["workload"])].extra


def _first(row: Row) -> bool:
    return next(iter(POINTS[row["workload"]].ids)) == str(row["workload"])


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _number(value: float) -> str:
    """Three digits that count, and separators."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
