"""Where a round trip's time goes: ``python tests/benchmarks/round_trip.py`` prints microseconds.

Two processes send one message to and fro, as in the workload ``ping_pong``. Each notes when
``send()`` was called, when libpq was given the statement and gave back control, when a socket was
readable, and when ``receive()`` and ``send()`` returned, on the machine's monotonic clock. Beside
that stands what it costs to count a message, and to ask for the counters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
import timeit
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.layer.wire import Wire
from pg_secrets.testing.postgres import PostgresServer
from tests.benchmarks import settings
from tests.benchmarks.senders import message

#: What happens to one message, in order: the part's name, and the events that it lies between.
_PARTS = (
    ("send() to libpq, in Python", "send", "put"),
    ("the system call that sends it", "put", "sent"),
    ("PostgreSQL, until the receiver's socket is readable", "sent", "readable"),
    ("the receiver's socket to receive(), in Python", "readable", "received"),
)
#: Beside them, while the message travels on.
_ANSWER = "libpq to the end of send(), which waits for the commit"
_COUNTED, _STATS = "to count one message, at both ends", "layer.stats()"


class Notes:
    """The times at which each message passed each point, in this process."""

    def __init__(self) -> None:
        #: For each message sent, and for each received, the nanoseconds by event.
        self.sent: list[dict[str, int]] = []
        self.received: list[dict[str, int]] = []
        #: What the health of the layer costs, in microseconds.
        self.health: dict[str, float] = {}
        self._readable = 0

    def watch(self) -> None:
        """Have every wire of this process note when it writes and reads."""
        send, readable = Wire._send, Wire._readable

        def noted_send(wire: Wire, *arguments: Any) -> None:
            begun = time.perf_counter_ns()
            send(wire, *arguments)
            if self.sent:
                # Of several statements the message's is the first.
                self.sent[-1].setdefault("put", begun)
                self.sent[-1].setdefault("sent", time.perf_counter_ns())

        def noted_readable(wire: Wire) -> None:
            self._readable = time.perf_counter_ns()
            readable(wire)

        Wire._send = noted_send  # type: ignore[assignment,method-assign]
        Wire._readable = noted_readable  # type: ignore[assignment,method-assign]

    async def send(self, layer: Any, channel: str, number: int) -> None:
        """Send one message."""
        self.sent.append({"send": time.perf_counter_ns()})
        await layer.send(channel, message(number))
        self.sent[-1]["answered"] = time.perf_counter_ns()

    async def receive(self, layer: Any, channel: str) -> None:
        """Receive one."""
        await layer.receive(channel)
        # The callback that had the message is the one that this task goes on in.
        times = {"readable": self._readable, "received": time.perf_counter_ns()}
        self.received.append(times)


async def _take_part(database: dict[str, Any], rounds: int, *, begins: bool) -> Notes:
    """Do one process's part; the other's channel name comes on stdin, ours goes to stdout."""
    notes = Notes()
    notes.watch()  # before there are any wires
    layer = ChannelLayer(**database)
    channel = await layer.new_channel()
    print(channel, flush=True)
    there = (await asyncio.to_thread(sys.stdin.readline)).strip()
    for number in range(rounds):
        if begins:
            await notes.send(layer, there, number)
            await notes.receive(layer, channel)
        else:
            await notes.receive(layer, channel)
            await notes.send(layer, there, number)
    notes.health = _health(layer)
    await layer.close()
    return notes


def _health(layer: Any, calls: int = 1000) -> dict[str, float]:
    """Return the microseconds that counting a message takes, and stats(), at best."""
    node = layer._node

    def counted() -> None:
        node.health.sent += 1
        node.health.received += 1

    return {
        name: min(timeit.repeat(call, number=calls, repeat=20)) / calls * 1e6
        for name, call in ((_COUNTED, counted), (_STATS, layer.stats))
    }


def measure(rounds: int) -> dict[str, float]:
    """Return the median of each part, of the answer, and of the whole, in microseconds."""
    with PostgresServer() as server:
        database = settings.database(server)
        settings.configure(database)
        settings.migrate()
        first, second = (_start(database, rounds, part) for part in ("first", "second"))
        names = [_line(process) for process in (first, second)]
        for process, name in ((first, names[1]), (second, names[0])):
            assert process.stdin is not None
            process.stdin.write(name)
            process.stdin.flush()
        notes = [json.loads(_line(process)) for process in (first, second)]
        for process in (first, second):
            process.communicate(timeout=30)
    there = [{**a, **b} for a, b in zip(notes[0]["sent"], notes[1]["received"], strict=True)]
    back = [{**a, **b} for a, b in zip(notes[1]["sent"], notes[0]["received"], strict=True)]
    both = (there + back)[rounds // 10 :]
    found = {
        name: statistics.median(one[end] - one[begin] for one in both) / 1e3
        for name, begin, end in _PARTS
    }
    found[_ANSWER] = statistics.median(one["answered"] - one["sent"] for one in both) / 1e3
    whole = [b["received"] - a["send"] for a, b in zip(there, back, strict=True)]
    return {**found, "there and back": statistics.median(whole) / 1e3, **notes[0]["health"]}


def _start(database: dict[str, Any], rounds: int, part: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--rounds", str(rounds), "--part", part]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(database) + "\n")
    process.stdin.flush()
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def main() -> None:
    """Print the parts, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--part", choices=("first", "second"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        database = json.loads(sys.stdin.readline())
        settings.configure(database)
        work = _take_part(database, options.rounds, begins=options.part == "first")
        print(json.dumps(vars(asyncio.run(work))), flush=True)
        return
    found = measure(options.rounds)
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=1))
        return
    for name, value in found.items():
        print(f"{name:55} {value:6.{0 if value >= 20 else 2}f} µs")


if __name__ == "__main__":
    main()
