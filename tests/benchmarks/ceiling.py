"""How far one server goes: ``python tests/benchmarks/ceiling.py`` prints a row for each size.

Of so many processes one half sends to the other, each to one, as fast as it can. Then all of them
are idle while another pair plays ping-pong, by turns in their database and in another one of the
same server. A single process has two layers, of which one sends to the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.contenders import OURS
from tests.benchmarks.nursery import Nursery
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import CannotDo, Processes, Team

#: Seconds until a probe is sent again, and until a message that has not come counts as lost.
_WAITS = {"settle": 1.0, "patience": 10.0}
#: Seconds that a process may take for one request, beside those of the load.
_LIMIT = 60.0
#: How often the ping-pongs take turns, and the round trips of a turn for each second of the load.
_TURNS, _ROUND_TRIPS = 5, 40
#: Seconds between two looks at how many sessions wait for the lock that PostgreSQL holds, for the
#: whole server, while a transaction that notifies commits: the queue has the order of the commits.
_LOOK = 0.1
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'object'"
)
#: A notification, with one or more messages, is a row that is kept for its receiver.
_NOTIFICATIONS = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM channels_pg_secrets_message_{number})" for number in range(3)
)
#: What stands above the figures of a row.
_TITLES = {
    "processes": "processes",
    "messages": "messages/s",
    "notifications": "notifications/s",
    "server_us": "server, µs of CPU a message",
    "clients_us": "processes, µs",
    "server_cores": "server, cores",
    "clients_cores": "processes, cores",
    "waiting": "sessions waiting for the lock",
    "ping_pong": "ping-pong beside them, idle, µs",
    "ping_pong_elsewhere": "they in another database, µs",
}


class Pairs:
    """The first so many workers of a team: one half sends, each to one of the other half."""

    def __init__(self, team: Team, size: int, tasks: int) -> None:
        self._team, self._tasks = team, tasks
        self._numbers = [(one, one + size // 2) for one in range(size // 2)] or [(0, 0)]
        self._channels: list[str] = []
        #: How many were ever sent to each receiver.
        self._sent = [0] * len(self._numbers)

    async def connect(self) -> None:
        """Have one half receive, and the other find it."""
        self._channels = [found["channel"] for found in await self._receivers("collect")]
        await self.check(await self.pour(0))

    async def pour(self, seconds: float) -> list[int]:
        """Send for so long, and wait for the last; return how many went to each. Or CannotDo."""
        work = {"tasks": self._tasks, "seconds": seconds}
        asked = (
            self._team.ask(sender, "pour", channel=channel, **work)
            for (sender, _), channel in zip(self._numbers, self._channels, strict=True)
        )
        sent = [found["sent"] for found in await asyncio.gather(*asked)]
        self._sent = [before + now for before, now in zip(self._sent, sent, strict=True)]
        await self._receivers("wait", received=self._sent)
        return sent

    async def check(self, sent: Sequence[int] = ()) -> None:
        """Raise CannotDo unless just these came since the last check, each of them once."""
        for found in await self._receivers("collected", sent=sent or [0] * len(self._numbers)):
            wrong = {name: found[name] for name in ("lost", "duplicated", "out_of_order")}
            if any(wrong.values()):
                raise CannotDo(f"messages to one of the processes: {wrong}")

    async def _receivers(self, do: str, **each: Sequence[int]) -> list[dict[str, Any]]:
        asked = (
            self._team.ask(receiver, do, **{name: values[at] for name, values in each.items()})
            for at, (_, receiver) in enumerate(self._numbers)
        )
        return list(await asyncio.gather(*asked))


class Crowd:
    """So many processes in one database, and beside them a pair there and one in another."""

    def __init__(self, nursery: Nursery, servers: Servers, size: int, limit: float) -> None:
        self._servers, self._size = servers, size
        self._places = [{**servers.place(OURS), **_WAITS} for _ in range(2)]
        here, elsewhere = self._places
        places = [{**here, "apart": size == 1}] * size + [here] * 2 + [elsewhere] * 2
        self._team = Processes(nursery, OURS, places, limit)

    async def measure(self, seconds: float, tasks: int) -> dict[str, float]:
        """Return the figures, and end the processes. Raises CannotDo."""
        try:
            pairs = Pairs(self._team, self._size, tasks)
            await pairs.connect()
            await pairs.check(await pairs.pour(seconds / 3))  # to warm up
            row = await self._under_load(pairs, seconds) | await self._idle(seconds)
            await pairs.check()  # what comes twice may do so late
            return {"processes": self._size, **row}
        finally:
            await self._team.dismiss()
            for place in self._places:
                self._servers.clear(place)

    async def _under_load(self, pairs: Pairs, seconds: float) -> dict[str, float]:
        before, over = await self._used(), asyncio.Event()
        looking = asyncio.create_task(self._look(over))
        begun = time.monotonic()
        try:
            each = await pairs.pour(seconds)
            taken = time.monotonic() - begun
        finally:
            over.set()
            waiting = await looking
        used = {name: now - before[name] for name, now in (await self._used()).items()}
        await pairs.check(each)
        return {
            "messages": sum(each) / taken,
            "notifications": used["notifications"] / taken,
            "server_us": used["server"] / sum(each) * 1e6,
            "clients_us": used["clients"] / sum(each) * 1e6,
            "server_cores": used["server"] / taken,
            "clients_cores": used["clients"] / taken,
            "waiting": waiting,
        }

    async def _idle(self, seconds: float) -> dict[str, float]:
        """Return the medians of both ping-pongs."""
        numbers = {"ping_pong": self._size, "ping_pong_elsewhere": self._size + 2}
        channels = {}
        for name, first in numbers.items():
            here = (await self._team.ask(first, "channel"))["channel"]
            there = (await self._team.ask(first + 1, "echo", to=here))["channel"]
            channels[name] = {"here": here, "there": there}
            await self._team.ask(first, "round_trips", **channels[name], number=5)
        times: dict[str, list[float]] = {name: [] for name in numbers}
        for _ in range(_TURNS):
            for name, first in numbers.items():
                work = {**channels[name], "number": max(2, round(seconds * _ROUND_TRIPS))}
                times[name].append((await self._team.ask(first, "round_trips", **work))["p50"])
        return {name: statistics.median(found) for name, found in times.items()}

    async def _used(self) -> dict[str, float]:
        """Return the CPU seconds so far of the server and of those under load, and what it told."""
        name = self._places[0]["database"]["NAME"]
        told = self._servers.execute(_NOTIFICATIONS, dbname=name)[0][0]
        asked = (self._team.ask(number, "usage") for number in range(self._size))
        clients = sum(found["cpu"] for found in await asyncio.gather(*asked))
        return {"notifications": told, "clients": clients, "server": self._servers.cpu(OURS)}

    async def _look(self, over: asyncio.Event) -> float:
        """Return how many sessions wait for the lock, on average until it is over."""
        database = self._places[0]["database"]
        login = {name: database[name.upper()] for name in ("host", "port", "user", "password")}
        found: list[int] = []
        bounds: dict[str, Any] = {"connect_timeout": 10, "options": "-c statement_timeout=10s"}
        async with await psycopg.AsyncConnection.connect(
            **login, **bounds, dbname="postgres", autocommit=True
        ) as connection:
            while not over.is_set():
                cursor = await connection.execute(_WAITING)
                found += [row[0] for row in await cursor.fetchall()]
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(over.wait(), _LOOK)
        return statistics.mean(found or [0])


def measure(sizes: Sequence[int], seconds: float, tasks: int) -> list[dict[str, float]]:
    """Return a row for each number of processes. Raises CannotDo."""
    rows = []
    with Nursery() as nursery, Servers(redis=False) as servers:
        for size in sizes:
            print(f"{size} processes", file=sys.stderr, flush=True)
            crowd = Crowd(nursery, servers, size, seconds + _LIMIT)
            rows.append(asyncio.run(crowd.measure(seconds, tasks)))
    return rows


def _sizes(text: str) -> list[int]:
    sizes = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if not all(size == 1 or (size > 1 and size % 2 == 0) for size in sizes):
        raise argparse.ArgumentTypeError(f"1 and even numbers of processes, not {text}")
    return sizes


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--processes", type=_sizes, default="1,2,4,8,16,32,64", help="(default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of load (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=10, help="a sender (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        rows = measure(options.processes, options.seconds, options.tasks)
    except CannotDo as error:
        sys.exit(f"failed: {error}")
    if options.json:
        print(json.dumps({"cores": len(os.sched_getaffinity(0)), "rows": rows}, indent=1))
        return
    print("| " + " | ".join(_TITLES.values()) + " |")
    print("|---" * len(_TITLES) + "|")
    for row in rows:
        print("| " + " | ".join(_shown(row[name]) for name in _TITLES) + " |")


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 10 or figure == int(figure) else f"{figure:.2f}"


if __name__ == "__main__":
    main()
