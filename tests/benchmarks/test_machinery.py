"""The benchmarks count what they measure and report what fails; none of this looks at the time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

# At the end: what is installed is what is tested.
sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import contenders, plots, report
from tests.benchmarks.ceiling import Pairs
from tests.benchmarks.floors import BareNotify
from tests.benchmarks.goals import GOALS, judge
from tests.benchmarks.run import Contestant, contest
from tests.benchmarks.scale import TINY
from tests.benchmarks.team import CannotDo, Together
from tests.benchmarks.worker import Worker
from tests.benchmarks.workload import Workload
from tests.benchmarks.workloads.catalogue import ALL, POINTS, chosen

COMPARE = Path(__file__).with_name("compare.py")
#: Those that ask no server for anything.
WITHOUT_SERVERS = [
    kind
    for kind in ALL
    if kind.__name__ not in ("Rotation", "Connections", "Tables", "ManyProcesses", "Connected")
]


class LosesSome(InMemoryChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """Drops each tenth message of those it was given."""

    given = 0

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        self.given += "probe" not in message
        if self.given % 10 != 9:
            await super().send(channel, message)


class RepeatsSome(InMemoryChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """Delivers every message twice."""

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await super().send(channel, message)
        await super().send(channel, message)


class PrefersOne(InMemoryChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """Gives a group's second member nothing, and its first member all twice."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if "probe" in message or len(self.groups.get(group, ())) < 2:
            await super().group_send(group, message)
            return
        first, _, *others = self.groups[group]
        for channel in (first, first, *others):
            await self.send(channel, message)


class ComesLate(InMemoryChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """Delivers the very first message once more, after a while."""

    late: asyncio.Task[None] | None = None

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await super().send(channel, message)
        if "probe" not in message and self.late is None:
            self.late = asyncio.ensure_future(self._again(channel, message))

    async def _again(self, channel: str, message: dict[str, Any]) -> None:
        await asyncio.sleep(0.005)
        await super().send(channel, message)


class SwapsSome(InMemoryChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """Delivers each tenth message as the one before it, so that the number of them is right."""

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if message.get("number", 0) % 10 == 9:
            message = {**message, "number": message["number"] - 1}
        await super().send(channel, message)


def results(kind: type[Workload], layer: InMemoryChannelLayer) -> list[dict[str, Any]]:
    """Return the rows of a workload, done within this process by one layer for all workers."""

    def team(workload: Workload) -> Together:
        return Together([Worker(lambda: layer, 0.01, 0.2) for _ in range(workload.processes)])

    contestant = Contestant(kind("memory", None, TINY), None)
    points = [point for point in kind.points if not point.extra]
    return asyncio.run(contest([contestant], points, TINY, team, lambda text: None))


@pytest.mark.parametrize("kind", WITHOUT_SERVERS, ids=lambda kind: kind.__name__)
@pytest.mark.long
def test_every_workload_gives_figures(kind: type[Workload]) -> None:
    """A layer that does the work gets a figure for each repetition, with its median between."""
    rows = results(kind, InMemoryChannelLayer(capacity=contenders.CAPACITY))
    assert rows
    for row in rows:
        assert "reason" not in row
        assert len(row["values"]) == kind("memory", None, TINY).repetitions
        low, high = row["spread"]
        assert 0 <= low <= row["median"] <= high
        assert row["median"] > 0 or row["unit"] == "connections"


@pytest.mark.parametrize(
    ("row_id", "layer", "why"),
    [
        ("senders_50", LosesSome, "lost"),
        ("large_100k", LosesSome, "lost"),
        ("senders_50", RepeatsSome, "more than"),
        ("large_100k", RepeatsSome, "more than"),
        ("ping_pong", RepeatsSome, "another message than was sent"),
        ("in_process", RepeatsSome, "another message than was sent"),
        ("in_process", SwapsSome, "another message than was sent: 8 for 9"),
        ("senders_50", ComesLate, "1 messages more than were sent"),
        ("fanout_1000", PrefersOne, "members of one group got 0 to"),
    ],
)
@pytest.mark.long
def test_a_layer_that_loses_or_repeats_messages_fails(row_id: str, layer: Any, why: str) -> None:
    """A layer that loses, repeats or mistakes a message gets no figure, and the reason is said."""
    (kind,) = chosen([row_id])
    rows = {row["workload"]: row for row in results(kind, layer(capacity=contenders.CAPACITY))}
    assert rows[row_id]["median"] is None
    assert rows[row_id]["reason"].startswith("failed: ")
    assert why in rows[row_id]["reason"]


async def test_a_record_tells_lost_from_duplicated() -> None:
    """What is kept of a stream counts the lost, the duplicated and those out of order."""
    layer = InMemoryChannelLayer(capacity=contenders.CAPACITY)
    worker = Worker(lambda: layer, 0.01, 0.05)
    channel = (await worker("collect"))["channel"]
    for number in (0, 1, 1, 4, 3):
        await layer.send(channel, {"type": "test", "number": number, "due": 0.0})
    found = await worker("collected", sent=6)
    assert (found["lost"], found["duplicated"], found["out_of_order"]) == (2, 1, 1)
    await worker("stop")


@pytest.mark.long
def test_the_report_of_a_run_has_the_promised_shape(tmp_path: Path) -> None:
    """One command measures in real processes, and writes the rows that others rely on."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(COMPARE), "--tiny", "--json", str(file)]
    workloads = "ping_pong,in_process,senders_50,fanout_1000"
    command += ["--peers", "memory,floor,floor_row,floor_frame", "--workloads", workloads]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {"machine", "date", "versions", "rows", "command"} <= set(found)
    rows = {(row["workload"], row["layer"]): row for row in found["rows"]}
    for layer in ("channels_pg_secrets", "floor"):
        row = rows["ping_pong", layer]
        assert row["unit"] == "us"
        assert row["spread"][0] <= row["median"] <= row["spread"][1]
        assert row["per_message"]["cpu_us"] > 0
    for floor in contenders.FLOORS:
        assert rows["senders_50", floor]["median"] > 0
    assert rows["in_process", "memory"]["median"] > 0
    assert rows["fanout_1000", "channels_pg_secrets"]["median"] > 0
    # Who cannot do it is there, with the reason.
    assert rows["ping_pong", "memory"]["median"] is None
    assert rows["ping_pong", "memory"]["reason"].startswith("cannot: ")
    assert "| `ping_pong`, µs |" in done.stdout


@pytest.mark.long
def test_figures_go_to_standard_output_where_no_file_is_named() -> None:
    """``--json`` alone prints nothing there that is not JSON; the tables are on standard error."""
    command = [sys.executable, str(COMPARE), "--tiny", "--peers", "memory", "--json"]
    command += ["--workloads", "credential_lookup"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    rows = {(row["workload"], row["layer"]): row for row in json.loads(done.stdout)["rows"]}
    assert rows["credential_lookup", "channels_pg_secrets"]["median"] > 0
    assert rows["credential_lookup", "memory"]["reason"].startswith("cannot: ")
    assert "| `credential_lookup`, µs |" in done.stderr


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("round_trip.py", "--rounds", "20"), 8),
        (("statement_times.py", "--rounds", "2", "--calls", "3"), 7),
    ],
    ids=["round_trip.py", "statement_times.py"],
)
@pytest.mark.long
def test_what_looks_closer_gives_figures(command: tuple[str, ...], parts: int) -> None:
    """The commands that show where time goes print microseconds for each of their parts."""
    script = COMPARE.with_name(command[0])
    done = subprocess.run(
        [sys.executable, str(script), *command[1:], "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    times = [one["lowest"] if isinstance(one, dict) else one for one in found.values()]
    assert len(times) == parts
    assert min(times) > 0


@pytest.mark.long
def test_the_ceiling_has_a_row_for_each_number_of_processes() -> None:
    """One process and two give each figure of a row."""
    command = [sys.executable, str(COMPARE.with_name("ceiling.py")), "--json"]
    command += ["--processes", "1,2", "--seconds", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cores"] > 0
    assert [row["processes"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert row.pop("waiting") >= 0
        assert row["messages"] >= row["notifications"]
        assert len(row) == 9
        assert min(row.values()) > 0


@pytest.mark.parametrize(
    ("layer", "why"),
    [(LosesSome, "lost"), (RepeatsSome, "more than"), (SwapsSome, "'lost': 1, 'duplicated': 1")],
)
async def test_no_ceiling_without_each_message(layer: Any, why: str) -> None:
    """A layer that loses, repeats or swaps a message of those poured gets no figure."""
    one = layer(capacity=contenders.CAPACITY)
    team = Together([Worker(lambda: one, 0.01, 0.05) for _ in range(4)])
    with pytest.raises(CannotDo, match=why):
        await Pairs(team, size=4, tasks=10).connect()
    await team.dismiss()


def test_there_is_a_workload_for_each_goal() -> None:
    """Each goal is about rows that some workload gives."""
    for goal in GOALS:
        assert goal.workload in POINTS
        assert goal.absolute or goal.against[0] in POINTS


def test_goals_are_judged_by_ratio_and_by_the_worst() -> None:
    """A ratio is taken of medians; of what must never happen one repetition is enough."""
    rows: list[dict[str, Any]] = [
        {"workload": "ping_pong", "layer": "channels_pg_secrets", "median": 90.0},
        {"workload": "ping_pong", "layer": "floor", "median": 100.0},
        {"workload": "ping_pong", "layer": "channels_redis", "median": 100.0},
        {"workload": "ping_pong", "layer": "channels_redis_pubsub", "median": None},
        {"workload": "rotation_lost", "layer": "channels_pg_secrets", "median": 0},
        {"workload": "tables", "layer": "channels_pg_secrets", "median": None},
    ]
    for row in rows:
        row["spread"] = [row["median"], 1.0]
    said = {(verdict.goal.workload, verdict.goal.layer): verdict.reached for verdict in judge(rows)}
    assert said["ping_pong", "floor"] is True
    assert said["ping_pong", "channels_redis"] is False
    assert said["ping_pong", "channels_redis_pubsub"] is None
    assert said["rotation_lost", None] is False
    assert said["tables", None] is False


def test_a_workload_that_is_not_there_is_named() -> None:
    """A mistyped workload is an error that names those there are."""
    with pytest.raises(ValueError, match=r"no workload pingpong; there are ping_pong, "):
        chosen(["pingpong"])


def test_tables_show_medians_with_their_spread() -> None:
    """A figure stands in the table with its spread, and a missing one with the reason's kind."""
    rows: list[dict[str, Any]] = [
        {"workload": "ping_pong", "layer": "a", "median": 1234.0, "spread": [1000.0, 2000.0]},
        {"workload": "ping_pong", "layer": "b", "median": None, "reason": "cannot: for a reason"},
    ]
    last = report.figures(rows).splitlines()[-1]
    assert last == "| `ping_pong`, µs | 1,234 (1,000–2,000) | cannot |"


def test_a_report_says_how_often_each_workload_was_measured() -> None:
    """Where a workload was repeated more often or less than most, its number is said."""
    numbers = {"ping_pong": 25, "in_process": 5, "senders_50": 5, "fanout_1000": 5, "tables": 1}
    rows = [{"workload": name, "values": [1.0] * number} for name, number in numbers.items()]
    rows += [{"workload": "tables", "values": [1.0] * 5}, {"workload": "groups_10"}]
    wanted = "5 interleaved repetitions (25 for `ping_pong`; 1 or 5 for `tables`)"
    assert report.repetitions(rows) == wanted


def test_growth_is_shown_with_its_cost() -> None:
    """Below the figures along an axis stand CPU and memory of a message, where they are known."""
    cost = {"cpu_us": 12.0, "server_cpu_us": 3.4, "memory_bytes": 250.0}
    rows: list[dict[str, Any]] = [
        {"workload": f"groups_{at}", "layer": "a", "median": 5.0, "spread": [5.0, 5.0]}
        | {"growth": "groups", "at": at, "per_message": cost}
        for at in (10, 100)
    ]
    rows[1]["median"], rows[1]["reason"] = None, "failed: for a reason"
    del rows[1]["per_message"]
    text = report.growth(rows)
    assert "| `groups_10`, µs | 5 |\n| `groups_100`, µs | failed |" in text
    assert text.endswith("| `groups_10` | 12 + 3.4 µs, 250 B |")


def test_nothing_is_drawn_twice() -> None:
    """A workload has bars of its own unless it is on a line, or comes along with another."""
    rows: list[dict[str, Any]] = [
        {"workload": workload, "layer": layer}
        for workload in ("ping_pong", "sync_send_connections")
        for layer in ("a", "b")
    ]
    rows += [{"workload": name, "layer": "a"} for name in ("rotation", "rotation_without")]
    for at in (10, 100000):
        at_point = {"workload": f"groups_{at}", "growth": "groups", "at": at}
        rows += [{**at_point, "layer": layer} for layer in ("a", "b")]
    assert (plots.in_bars(rows), plots.in_lines(rows)) == (["ping_pong", "rotation"], ["groups"])
    # Without the rest of the line its one point has bars.
    assert plots.in_bars(rows[:-2]) == ["ping_pong", "rotation", "groups_10"]


def test_the_floor_is_only_asked_for_what_it_can_do() -> None:
    """The floor stands in for a layer in the workloads with one channel in each process."""
    assert {kind.__name__ for kind in ALL if kind.floor} == {
        "PingPong",
        "PingPongBusy",
        "Senders50",
    }
    assert not hasattr(BareNotify, "group_send")
