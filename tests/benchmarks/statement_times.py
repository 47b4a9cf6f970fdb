"""How long the server takes for one statement of the message path, one after the other.

``python tests/benchmarks/statement_times.py`` prints microseconds from the request to the answer on
one connection, the median and the lowest of many rounds, beside what a bare ``pg_notify`` takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.item import FrameKey
from channels_pg_secrets.layer.statements import Statement
from channels_pg_secrets.layer.supervisor import STALE
from pg_secrets.testing.postgres import PostgresServer
from tests.benchmarks import settings

#: The nodes that send and receive, the group of which the latter is a member, and a message.
_SENDER, _RECEIVER, _GROUP = 1, 2, "group"
_ITEM = b"c" + b"x" * 280
_TIMES = (60.0, 60.0, 86400.0)


class Session:
    """One connection that has prepared what it is asked."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._pgconn = connection.pgconn
        self._numbers = count(1)
        self._key = FrameKey.generate()
        self._incarnation = 0
        for node in (_SENDER, _RECEIVER):
            values = ("asgi", node, f"node_{node}", *self._key.pads(), 30.0, 1)
            self._incarnation = int(self._ask(statements.REGISTER, *values))
        members = ([_GROUP], [""], [True], [0], [0])
        head = ("asgi", _RECEIVER, self._incarnation, 1, 86400.0, 86400.0)
        self._ask(statements.MEMBERS, *head, *members)
        for name, query in (
            (b"nothing", b"SELECT 1"),
            (b"notify", b"SELECT pg_notify('node_2', $1 || $2)"),
        ):
            self._pgconn.prepare(name, query)

    def nothing(self) -> None:
        """Ask for a constant."""
        self._pgconn.exec_prepared(b"nothing", None)

    def pg_notify(self) -> None:
        """Notify, and no more."""
        self._pgconn.exec_prepared(b"notify", [_ITEM, str(next(self._numbers)).encode()])

    def publish_frame(self) -> None:
        """Publish a frame that was sealed here."""
        number = next(self._numbers)
        sealed = self._key.seal(_SENDER, number, _ITEM)
        to = (_RECEIVER, _ITEM, b"node_2", sealed, 60.0, None)
        self._ask(statements.PUBLISH_FRAME, _SENDER, self._incarnation, number, *to)

    def publish_group(self) -> None:
        """Publish a message to a group with members in one process."""
        head = ("asgi", _SENDER, self._incarnation, next(self._numbers))
        self._ask(statements.PUBLISH_GROUP, *head, _GROUP, _ITEM, *_TIMES[:2], None)

    def publish_a_frame(self) -> None:
        """The same frame by ``publish``, which takes any batch."""
        self._publish(_RECEIVER, None)

    def publish_to_a_group(self) -> None:
        """The same message to a group by ``publish``."""
        self._publish(None, _GROUP)

    def heartbeat(self) -> None:
        """Say "still here", every five seconds; whoever does so sweeps."""
        self._ask(statements.HEARTBEAT, _SENDER, STALE)

    def _publish(self, node: int | None, group: str | None) -> None:
        head = ("asgi", _SENDER, self._incarnation, next(self._numbers), False)
        batch = ([node], [group], [None], [None], [_ITEM], [None])
        self._ask(statements.PUBLISH, *head, *_TIMES, *batch)

    def _ask(self, statement: Statement, *values: Any) -> str:
        pgconn: Any = self._pgconn  # its types know no NULL
        name = statement.name
        params: Any = statement.encode(values)
        result = pgconn.exec_prepared(name, params, statement.formats, 0)
        if result.status != pq.ExecStatus.TUPLES_OK:
            pgconn.prepare(name, statement.sql)
            result = pgconn.exec_prepared(name, params, statement.formats, 0)
        assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
        return (result.get_value(0, 0) or b"").decode()


def measure(rounds: int, calls: int) -> dict[str, dict[str, float]]:
    """Return the median and the lowest of the rounds for each statement, in microseconds."""
    with PostgresServer() as server:
        settings.configure(settings.database(server))
        settings.migrate()
        with psycopg.connect(
            host=server.host,
            port=server.port,
            user=server.superuser,
            password=server.password,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            session = Session(connection)
            work = {
                "SELECT 1": session.nothing,
                "pg_notify": session.pg_notify,
                "publish_frame": session.publish_frame,
                "publish, a frame": session.publish_a_frame,
                "publish_group": session.publish_group,
                "publish, to a group": session.publish_to_a_group,
                "heartbeat": session.heartbeat,
            }
            taken: dict[str, list[float]] = {name: [] for name in work}
            for _ in range(rounds):
                for name, call in work.items():
                    began = time.perf_counter()
                    for _ in range(calls):
                        call()
                    taken[name].append((time.perf_counter() - began) / calls * 1e6)
    return {
        name: {"median": round(statistics.median(times), 1), "lowest": round(min(times), 1)}
        for name, times in taken.items()
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--calls", type=int, default=100, help="calls a round (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.rounds, options.calls)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, times in found.items():
        print(f"{name:20} {times['median']:6.0f} µs, at least {times['lowest']:.0f}")


if __name__ == "__main__":
    main()
