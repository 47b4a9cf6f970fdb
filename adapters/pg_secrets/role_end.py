"""When the role of a session ends: the one thing asked of a server that has just let us in."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import generators, pq, waiting
from psycopg.conninfo import timeout_from_conninfo

#: One row with the end of the session's role in seconds since the epoch, or NULL for never.
VALID_UNTIL_SQL = (
    "SELECT CASE WHEN isfinite(rolvaliduntil) THEN extract(epoch FROM rolvaliduntil)::float8 END"
    " FROM pg_catalog.pg_roles WHERE rolname = session_user"
)

#: Seconds between two looks at the time while waiting for the answer.
_LOOK = 0.1


def role_end(connection: psycopg.Connection[Any]) -> float | None:
    """Return when the session's role ends (epoch seconds), ``None`` for never or not to be known.

    Blocks for ``connect_timeout`` seconds at most: a server may let us in and then freeze.

    Raises:
        psycopg.errors.ConnectionTimeout: there was no answer in time; the connection is of no use.
        psycopg.OperationalError: the connection is lost.
    """
    return waiting.wait(_asking(connection), connection.pgconn.socket, _LOOK)


async def role_end_async(connection: psycopg.AsyncConnection[Any]) -> float | None:
    """Do what :func:`role_end` does on an event loop; once cancelled, the connection is of no use.

    Raises:
        psycopg.errors.ConnectionTimeout: there was no answer in time; the connection is of no use.
        psycopg.OperationalError: the connection is lost.
    """
    return await waiting.wait_async(_asking(connection), connection.pgconn.socket, _LOOK)


def _asking(connection: psycopg.BaseConnection[Any]) -> Generator[Any, Any, float | None]:
    # One generator for both kinds, below their execute(): that would answer a time-out or a
    # cancellation by asking the frozen server to cancel, and wait for it to have done so.
    seconds = timeout_from_conninfo({**connection.info.get_parameters()})
    deadline = time.monotonic() + seconds
    connection.pgconn.send_query(VALID_UNTIL_SQL.encode())
    steps = generators.execute(connection.pgconn)
    ready: Any = None
    try:
        while True:
            wait = steps.send(ready)
            while not (ready := (yield wait)):
                if time.monotonic() >= deadline:
                    raise psycopg.errors.ConnectionTimeout(
                        f"the server took the login and did not answer within {seconds} seconds"
                    )
    except StopIteration as end:
        return _value(end.value[-1])


def _value(result: Any) -> float | None:
    if result.status != pq.ExecStatus.TUPLES_OK or not result.ntuples:
        return None
    value = result.get_value(0, 0)
    return None if value is None else float(value)
