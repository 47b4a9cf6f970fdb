"""Looking, with a layer's own login, whether the database is ready for it."""

from __future__ import annotations

import asyncio
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.failures import failure
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.statements import Statement
from pg_secrets.connect import LoginRejected
from pg_secrets.errors import CredentialsDenied, CredentialsError, CredentialsUnavailable

Connection = psycopg.AsyncConnection[Any]

_FUNCTIONS = """
    SELECT p.proname::text, has_function_privilege(p.oid, 'EXECUTE')
    FROM pg_catalog.pg_proc p
    WHERE p.proname = ANY(%s) AND pg_catalog.pg_function_is_visible(p.oid)
"""
_WHERE = "SELECT current_database()::text, session_user::text"
_NOTIFY = "SELECT pg_notify(%s, '')"
#: Seconds for one notification.
_ROUND_TRIP = 5.0


def function_names() -> frozenset[str]:
    """Return the SQL functions that the layer calls, and so the runtime role must be able to."""
    found = (value for value in vars(statements).values() if isinstance(value, Statement))
    return frozenset(statement.name.decode() for statement in found)


def examine(
    engine: PostgresEngine, obj: str, *, always_listen: bool = False
) -> list[checks.CheckMessage]:
    """Return what keeps a layer from working, as warnings; blocks while it connects.

    Whether the listening connection hears is tried where it has settings of its own, or always.
    """
    # In a thread of its own: management commands are also called where a loop is running.
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(lambda: asyncio.run(_examined(engine, always_listen))).result()
    if found is not None:
        found.obj = obj
    return [] if found is None else [found]


async def _examined(engine: PostgresEngine, always_listen: bool) -> checks.Warning | None:
    try:
        opened = await engine.open_connection()
        try:
            lacking = await _lacking(opened.connection)
            if lacking is not None or not (always_listen or engine.django_backend.settings.listen):
                return lacking
            return await _deaf(engine, opened.connection)
        finally:
            await opened.close()
    except Exception as error:  # noqa: BLE001 - an engine's own code may raise anything
        return _why(error)


async def _lacking(connection: Connection) -> checks.Warning | None:
    """Look for the functions that the layer calls."""
    database, user = await _first(connection, _WHERE)
    cursor = await connection.execute(_FUNCTIONS, [list(function_names())])
    seen = {str(name): bool(allowed) for name, allowed in await cursor.fetchall()}
    missing = function_names() - seen.keys()
    if missing:
        return _warning(
            "W010",
            f"The layer's tables and functions are not there: {len(missing)} of"
            f" {len(function_names())} functions are missing in the database {database!r}, or"
            f" {user!r} cannot see them.",
            hint=f"{_migrate(connection)} Then check that its schema is in the search_path of this"
            " login, with USAGE on it.",
        )
    forbidden = sorted(name for name, allowed in seen.items() if not allowed)
    if forbidden:
        return _warning(
            "W011",
            f"This login may not call the layer's functions: {', '.join(forbidden)}.",
            hint="Run what `manage.py channels_pg_secrets grants --role ROLE` prints, and make this"
            f" login a member of that role: GRANT ROLE TO {_quoted(user)}.",
        )
    return None


async def _deaf(engine: PostgresEngine, connection: Connection) -> checks.Warning | None:
    """Open the listening connection, and let it hear once."""
    try:
        listener = await engine.open_connection(listener=True)
    except Exception as error:  # noqa: BLE001 - as above
        return _why(error, "LISTEN: ")
    try:
        database, _ = await _first(connection, _WHERE)
        other, _ = await _first(listener.connection, _WHERE)
        if other != database:
            return _warning(
                "W019",
                f"LISTEN: {other!r} is not the database of the layer, which is {database!r}.",
                hint="Give LISTEN where it leads to the same database by another way.",
            )
        channel = f"channels_pg_secrets_check_{secrets.token_hex(8)}"
        await listener.connection.execute(f"LISTEN {channel}")
        await connection.execute(_NOTIFY, [channel])
        async for _ in listener.connection.notifies(timeout=_ROUND_TRIP, stop_after=1):
            return None
    except psycopg.Error as error:
        return _why(error, "LISTEN: ")
    finally:
        await listener.close()
    return _warning(
        "W019",
        "LISTEN: the listening connection does not hear what the other one sends.",
        hint="Let LISTEN go past PgBouncer, to the same server as the layer's own settings.",
    )


async def _first(connection: Connection, query: str) -> tuple[str, str]:
    cursor = await connection.execute(query)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - it selects from nothing
    return str(row[0]), str(row[1])


def _migrate(connection: Connection) -> str:
    """Say which alias to migrate."""
    info = connection.info
    found = [
        alias
        for alias, settings in connections.settings.items()
        if str(settings["NAME"]) == info.dbname
        and str(settings["HOST"] or info.host) == info.host
        and str(settings["PORT"] or info.port) == str(info.port)
    ]
    command = "Run `manage.py migrate channels_pg_secrets"
    if found:
        return f"{command} --database {found[0]}` with the owner's login."
    return f"{command}` with the owner's login: no alias of DATABASES is this database, so add one."


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _warning(number: str, text: str, *, hint: str) -> checks.Warning:
    return checks.Warning(text, hint=hint, id=f"channels_pg_secrets.{number}")


def _why(error: Exception, prefix: str = "") -> checks.Warning:
    number, hint = _explained(error)
    if number == "W018":
        return _warning(number, f"{prefix}The engine failed with {failure(error)}.", hint=hint)
    text = getattr(error, "message", "") or f"{type(error).__name__}: {str(error).strip()}"
    return _warning(number, prefix + text, hint=hint)


def _explained(error: Exception) -> tuple[str, str]:
    if isinstance(error, ImproperlyConfigured):
        return "W017", getattr(error, "hint", "") or "See the settings reference."
    if isinstance(error, LoginRejected):
        return "W012", (
            "The server refused this user or password: compare USER and PASSWORD, or what"
            " CREDENTIALS give, with the role in the database."
        )
    if isinstance(error, psycopg.Error):
        return _explained_by_server(error)
    if isinstance(error, CredentialsUnavailable):
        return "W014", "Check the store's address and that it is up and can be reached from here."
    if isinstance(error, CredentialsDenied):
        return "W015", "Check the token or role that CREDENTIALS name, and its policy in the store."
    if isinstance(error, CredentialsError):
        return "W016", "Check CREDENTIALS against what the store holds."
    return "W018", "Mend connection_params(), connect() or configure(), or the backend it asks."


def _explained_by_server(error: psycopg.Error) -> tuple[str, str]:
    # Permission denied to set a role; no such role, no such time zone.
    if error.sqlstate in ("42501", "22023"):
        return "W017", (
            "Check OPTIONS['assume_role'], a role that this login has to be a member of, and"
            " TIME_ZONE."
        )
    # libpq looks at its values only when it connects, and gives these errors no code.
    if isinstance(error, psycopg.ProgrammingError) or re.search("invalid .* value", str(error)):
        return "W017", "Check OPTIONS: libpq takes no such value."
    return "W013", "Check HOST, PORT, NAME and that the server takes connections from here."
