"""A plot for each way in which cost grows, and one for each other workload, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import NAMES, OURS
from tests.benchmarks.goals import GOALS
from tests.benchmarks.workloads.catalogue import POINTS, less_is_better

Row = dict[str, Any]

# Okabe and Ito's, which the colour-blind can tell apart; each line has a marker of its own too.
_COLOURS = dict(
    zip(
        NAMES,
        ("#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#009E73", "#7F7F7F", "#000000", "#56B4E9"),
        strict=True,
    )
)
_GROWTH = {
    "members of a group": "Deliveries per second, by members of the group",
    "groups": "Median time of a group_send() to one of many groups",
    "bytes of a message": "Messages per second to another process, by their size",
    "processes connected": "Median time to another process and back, by processes connected",
    "processes": "Deliveries per second to a group of 960, by processes they are spread over",
}
_MARKERS = dict(zip(NAMES, "osD^vx+*", strict=True))


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw all there is to draw, and return the files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    # The same figures give the same file.
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 10})
    folder.mkdir(parents=True, exist_ok=True)
    measured = [row for row in rows if row["median"] is not None]
    written = []
    for row_id in in_bars(measured):
        point = POINTS[row_id]
        ids = [one for one, unit in point.ids.items() if unit == point.ids[row_id]]
        shown = [row for one in ids for row in measured if row["workload"] == one]
        absent = [row for row in rows if row["workload"] == row_id and row["median"] is None]
        written += _bars(row_id, shown, absent, folder)
    for axis in in_lines(measured):
        written += _lines(axis, [row for row in measured if row.get("growth") == axis], folder)
    return written


def in_lines(rows: Sequence[Row]) -> list[str]:
    """Return the axes along which there is more than one point."""
    places: dict[str, set[int]] = {}
    for row in rows:
        if "growth" in row:
            places.setdefault(row["growth"], set()).add(row["at"])
    return [axis for axis, found in places.items() if len(found) > 1]


def in_bars(rows: Sequence[Row]) -> list[str]:
    """Return the workloads that have a plot of their own, by their first row.

    What comes along with it stands there too, if it has the same unit. What stands on a line is
    left out.
    """
    lines = in_lines(rows)
    found = dict.fromkeys(row["workload"] for row in rows if row.get("growth") not in lines)
    return [
        row_id
        for row_id in found
        if not POINTS[row_id].extra and row_id == next(iter(POINTS[row_id].ids))
    ]


def _bars(row_id: str, rows: Sequence[Row], absent: Sequence[Row], folder: Path) -> list[Path]:
    from matplotlib import pyplot as plt

    said = [f"{row['layer']}: {row['note']}" for row in rows if "note" in row]
    said += [f"{row['layer']}: {row['reason']}" for row in absent]
    height = 1.3 + 0.45 * len(rows) + 0.2 * len(said)
    figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
    names = [_label(row, row_id) for row in rows]
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["spread"][0] for row in rows]
    above = [row["spread"][1] - row["median"] for row in rows]
    axes.barh(
        names,
        medians,
        xerr=[below, above],
        color=[_COLOURS[row["layer"]] for row in rows],
        error_kw={"capsize": 3, "elinewidth": 1},
    )
    for place, row in enumerate(rows):
        axes.annotate(
            f"{row['median']:,.3g}" if row["median"] < 100 else f"{row['median']:,.0f}",
            (row["spread"][1], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    _goal_line(axes, row_id)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set_xlabel(_unit(row_id))
    # Room for the word at the goal's line.
    axes.set_title(_title(row_id), loc="left", fontsize=10, wrap=True, pad=16)
    if said:
        figure.supxlabel("\n".join(said), x=0.01, ha="left", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, folder / row_id)


def _label(row: Row, row_id: str) -> str:
    same = row["workload"] == row_id
    return str(row["layer"]) if same else f"{row['layer']},\n{row['workload']}"


def _goal_line(axes: Any, row_id: str) -> None:
    for goal in GOALS:
        if goal.workload == row_id and goal.absolute and goal.limit:
            axes.axvline(goal.limit, color="black", linestyle="--", linewidth=1)
            axes.annotate("goal", (goal.limit, 1), xycoords=("data", "axes fraction"), va="bottom")


def _lines(axis: str, rows: Sequence[Row], folder: Path) -> list[Path]:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for name in dict.fromkeys(row["layer"] for row in rows):
        found = sorted((row for row in rows if row["layer"] == name), key=lambda row: row["at"])
        places = [row["at"] for row in found]
        axes.plot(
            places,
            [row["median"] for row in found],
            label=name,
            color=_COLOURS[name],
            marker=_MARKERS[name],
            linewidth=2.4 if name == OURS else 1.4,
        )
        axes.fill_between(
            places,
            [row["spread"][0] for row in found],
            [row["spread"][1] for row in found],
            color=_COLOURS[name],
            alpha=0.15,
            linewidth=0,
        )
    row_id = rows[0]["workload"]
    axes.set_xscale("log", base=2 if axis == "processes" else 10)
    axes.set_yscale("log")
    places = sorted({row["at"] for row in rows})
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_xlabel(axis)
    axes.set_ylabel(_unit(row_id))
    axes.set_title(f"{_GROWTH[axis]}; {_direction(row_id)}", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return _saved(figure, folder / f"growth_{axis.replace(' ', '_')}")


def _saved(figure: Any, path: Path) -> list[Path]:
    from matplotlib import pyplot as plt

    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    figure.savefig(svg, metadata={"Date": None})
    figure.savefig(png, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return [svg, png]


def _title(row_id: str) -> str:
    what = POINTS[row_id].what
    return f"{row_id}: {what}\n{_direction(row_id)}"


def _direction(row_id: str) -> str:
    return "less is better" if less_is_better(row_id) else "more is better"


def _unit(row_id: str) -> str:
    return POINTS[row_id].ids[row_id].replace("us", "µs")
