"""What credentials cost: imports, look-ups, first users, and requests to the store.

``python tests/benchmarks/credentials.py`` prints the tables of docs/reference/adapters.md. It needs
the extra ``test``, and starts the stores itself.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# At the end: what is installed is what is measured.
sys.path.append(str(Path(__file__).parents[2]))

from pg_secrets.credentials import Credentials
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import Outcome, ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.process import forget_client_settings
from tests.benchmarks import import_times, report, store_requests

CROWD = 100


def look_ups(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Return nanoseconds per look-up of what is in memory: the median of the rounds, the lowest."""
    kinds: dict[str, tuple[Outcome, bool]] = {
        "get(), no end": (Credentials(user="app", password="secret"), False),
        "get(), a lease": (leases(), False),
        "await aget(), a lease": (leases(), True),
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    sources = {name: CredentialSource(ScriptedAdapter(kind)) for name, (kind, _) in kinds.items()}
    for source in sources.values():
        source.get()
    for _ in range(rounds):
        for name, (_, on_loop) in kinds.items():
            source = sources[name]
            spent = asyncio.run(_agets(source, calls)) if on_loop else _gets(source, calls)
            taken[name].append(spent / calls * 1e9)
    for source in sources.values():
        source.close()
    return {
        name: {"median": round(statistics.median(times)), "lowest": round(min(times))}
        for name, times in taken.items()
    }


def _gets(source: CredentialSource, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        source.get()
    return time.perf_counter() - began


async def _agets(source: CredentialSource, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        await source.aget()
    return time.perf_counter() - began


def first_users() -> dict[str, int]:
    """Return how many fetches a hundred threads, and a hundred tasks, cost that come first."""
    return {"threads": _crowd_of_threads(), "tasks": asyncio.run(_crowd_of_tasks())}


def _crowd_of_threads() -> int:
    adapter, clock = ScriptedAdapter(), FakeClock()
    adapter.answering.clear()
    source = CredentialSource(adapter, background=False, clock=clock)
    with ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(source.get) for _ in range(CROWD)]
        clock.wait_for_waiters(CROWD)
        adapter.answering.set()
        for one in asked:
            one.result(30.0)
    source.close()
    return adapter.fetches


async def _crowd_of_tasks() -> int:
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = CredentialSource(adapter, background=False, clock=FakeClock())
    asked = [asyncio.ensure_future(source.aget()) for _ in range(CROWD)]
    await asyncio.sleep(0)
    adapter.answering.set()
    await asyncio.wait_for(asyncio.gather(*asked), 30.0)
    source.close()
    return adapter.fetches


def measure(rounds: int, calls: int, hours: int) -> dict[str, Any]:
    """Measure everything."""
    forget_client_settings()
    return {
        "machine": report.machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": report.versions({}),
        "rounds": rounds,
        "hours": hours,
        "import_ms": import_times.measure(rounds),
        "look_up_ns": look_ups(rounds, calls),
        "first_users": first_users(),
        "requests": store_requests.measure(hours),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    used = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    crowds = found["first_users"]
    lines = [
        "| | median | lowest |",
        "|---|---|---|",
        *(
            f"| {name} | {times['median']:.1f} ms | {times['lowest']:.1f} ms |"
            for name, times in found["import_ms"].items()
        ),
        *(
            f"| look-up, `{name}` | {times['median']:.0f} ns | {times['lowest']:.0f} ns |"
            for name, times in found["look_up_ns"].items()
        ),
        f"| fetches for {CROWD} threads that come first | {crowds['threads']} | |",
        f"| fetches for {CROWD} tasks that come first | {crowds['tasks']} | |",
        "",
        "| | where the login is | fetches an hour | renewals an hour | requests an hour |",
        "|---|---|---|---|---|",
        *(
            f"| `{row['adapter']}` | {row['what']} | {row['fetches']:.1f} | {row['renewals']:.1f}"
            f" | {row['requests']:.1f} |"
            for row in found["requests"]
        ),
        "",
        f"{found['date']}, {found['machine']}. {used}.",
        f"Medians of {found['rounds']} rounds; requests are the mean of {found['hours']} hours.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=100_000, help="look-ups a round")
    parser.add_argument("--hours", type=int, default=24, help="hours (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.rounds, options.calls, options.hours)
    print(json.dumps(found, indent=1) if options.json else markdown(found))


if __name__ == "__main__":
    main()
