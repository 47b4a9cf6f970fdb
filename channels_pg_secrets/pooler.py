"""Finding out whether a pooler stands between a login and its server, and in which mode."""

from __future__ import annotations

from enum import Enum
from typing import Any

import psycopg

Connection = psycopg.AsyncConnection[Any]

_PID = "SELECT pg_catalog.pg_backend_pid()"
#: How often two connections are compared: others may take turns at the pool meanwhile.
_LOOKS = 5


class Pooling(Enum):
    """How a pooler shares server connections; the values are PgBouncer's names for it."""

    NONE = "none"
    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


async def pooling(one: Connection, other: Connection) -> Pooling:
    """Tell how two connections, opened alike and in autocommit, are pooled.

    A pooler makes up the process id that a client is told when it logs in, and so it differs from
    what the server says of itself. In transaction mode the next client is lent the server process
    that the one before has just used, although that is still connected.

    Raises:
        psycopg.Error: a connection broke.
    """
    if await backend_pid(one) == one.info.backend_pid:
        return Pooling.NONE
    for _ in range(_LOOKS):
        before = await backend_pid(one)
        try:
            async with other.transaction():
                lent = await backend_pid(other) == before
                moved = await backend_pid(one) != before
        except psycopg.Error as error:
            # PgBouncer's own words; it ends the client's connection with them.
            if "statement pooling" in str(error):
                return Pooling.STATEMENT
            raise
        if lent or moved:
            return Pooling.TRANSACTION
    return Pooling.SESSION


async def follows_prepared_statements(one: Connection, other: Connection) -> bool:
    """Tell whether a statement that ``one`` prepared works on whichever server it is lent next.

    For transaction mode; ``one`` may be of no use afterwards.
    """
    try:
        await one.execute(_PID, prepare=True)
        async with other.transaction():
            await backend_pid(other)
            await one.execute(_PID, prepare=True)
    except (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement):
        return False
    return True


async def backend_pid(connection: Connection) -> int:
    """Return the process id of the server that serves this connection just now."""
    cursor = await connection.execute(_PID, prepare=False)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - it selects from nothing
    return int(row[0])
