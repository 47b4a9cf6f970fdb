"""Looking, with a layer's own login, whether the database is ready for it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from django.core import checks
from django.db import connections

from channels_pg_secrets.blocking import blocking
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.statements import Statement
from channels_pg_secrets.pooler import Pooling, follows_prepared_statements, pooling
from channels_pg_secrets.remedies import explained, quoted, warning

Connection = psycopg.AsyncConnection[Any]

_FUNCTIONS = """
    SELECT p.proname::text, has_function_privilege(p.oid, 'EXECUTE')
    FROM pg_catalog.pg_proc p
    WHERE p.proname = ANY(%s) AND pg_catalog.pg_function_is_visible(p.oid)
"""
_WHERE = "SELECT current_database()::text, session_user::text"
_ISOLATION = "SELECT current_setting('default_transaction_isolation'), session_user::text"
_NOTIFY = "SELECT pg_notify(%s, '')"
#: Seconds for one notification.
_ROUND_TRIP = 5.0
_POOLING = {
    Pooling.NONE: "none",
    Pooling.SESSION: "there is one, in session mode",
    Pooling.TRANSACTION: "there is one, in transaction mode",
    Pooling.STATEMENT: "there is one, in statement mode",
}


def function_names() -> frozenset[str]:
    """Return the SQL functions that the layer calls, and so the runtime role must be able to."""
    found = (value for value in vars(statements).values() if isinstance(value, Statement))
    return frozenset(statement.name.decode() for statement in found)


@dataclass(frozen=True)
class Step:
    """One thing that was tried and went well: what, how long it took, and what was seen."""

    name: str
    seconds: float
    seen: str


@dataclass
class Examination:
    """What was tried, in order, and what keeps the layer from working."""

    steps: list[Step] = field(default_factory=list)
    finding: checks.CheckMessage | None = None

    @property
    def findings(self) -> list[checks.CheckMessage]:
        """The finding, if there is one: whatever comes after it could not be tried."""
        return [] if self.finding is None else [self.finding]


def examine(
    engine: PostgresEngine, obj: str, *, thorough: bool = False, rights: bool = True
) -> Examination:
    """Find out what keeps a layer from working, as a warning; blocks while it connects.

    Whether the listening connection hears is tried where it has settings of its own; if
    ``thorough``, always, and it is looked whether a pooler stands in between. Without ``rights``
    the layer's functions are not looked for.
    """
    examiner = Examiner(engine, thorough=thorough, rights=rights)
    # In a thread of its own: management commands are also called where a loop is running.
    blocking(examiner.run)
    if examiner.result.finding is not None:
        examiner.result.finding.obj = obj
    return examiner.result


class Examiner:
    """Takes one layer's way from the store to a notification, step by step."""

    def __init__(self, engine: PostgresEngine, *, thorough: bool, rights: bool) -> None:
        self.result = Examination()
        self._engine = engine
        self._thorough = thorough
        self._rights = rights
        self._begun = time.monotonic()

    async def run(self) -> None:
        """Go as far as possible; what an engine's own code raises is a finding too."""
        try:
            await self._fetch()
            opened = await self._engine.open_connection()
            try:
                self.result.finding = await self._look(opened.connection)
            finally:
                await opened.close()
        except Exception as error:  # noqa: BLE001 - an engine's own code may raise anything
            self.result.finding = explained(self._engine, error)

    def _done(self, name: str, seen: str) -> None:
        now = time.monotonic()
        self.result.steps.append(Step(name, now - self._begun, seen))
        self._begun = now

    async def _fetch(self) -> None:
        source = self._engine.source
        if source is not None:
            credentials = await source.aget()
            version = f", version {credentials.version}" if credentials.version else ""
            user = credentials.user or "of the settings"
            self._done("fetch", f"{source.name}: user {user}{version}")

    async def _look(self, connection: Connection) -> checks.CheckMessage | None:
        database, user = await _first(connection, _WHERE)
        info = connection.info
        self._done(
            "log in",
            f"{user} to {database} on {info.host}:{info.port}, PostgreSQL {_version(info)}",
        )
        if self._thorough:
            pooled = await self._pooled(connection)
            if pooled is not None:
                return pooled
        if self._rights:
            lacking = await _lacking(connection)
            if lacking is not None:
                return lacking
            self._done("rights", f"all {len(function_names())} functions may be called")
        if self._thorough or self._engine.django_backend.settings.listen:
            deaf = await _deaf(self._engine, connection)
            if deaf is not None:
                return deaf
            self._done("listen", "a notification was heard")
        return await _isolated(connection) if self._rights else None

    async def _pooled(self, connection: Connection) -> checks.CheckMessage | None:
        other = await self._engine.open_connection()
        try:
            mode = await pooling(connection, other.connection)
            forgetful = (
                mode is Pooling.TRANSACTION
                and self._engine.prepare_threshold is not None
                and not await follows_prepared_statements(connection, other.connection)
            )
        finally:
            await other.close()
        self._done("pooler", _POOLING[mode])
        settings = self._engine.django_backend.settings.current()
        return _unsuitable(mode, settings, forgetful=forgetful)


def _unsuitable(
    mode: Pooling, settings: Mapping[str, Any], *, forgetful: bool
) -> checks.Warning | None:
    """Say what does not go with a pooler; ``forgetful``: it loses prepared statements."""
    if mode is Pooling.STATEMENT:
        return warning(
            "W020",
            "A pooler in statement mode stands before the server: it refuses transactions.",
            hint="Set pool_mode = transaction (or session) for this database in PgBouncer.",
        )
    if forgetful:
        return warning(
            "W020",
            "A pooler in transaction mode stands before the server, and does not follow prepared"
            " statements from one server connection to the next.",
            hint="Give OPTIONS {'prepare_threshold': None}; or, with PgBouncer 1.21 or newer, set"
            " max_prepared_statements = 100 there.",
        )
    kept = {"OPTIONS['assume_role']": settings["OPTIONS"].get("assume_role")}
    kept["TIME_ZONE"] = settings["TIME_ZONE"]
    leaking = [name for name, value in kept.items() if value]
    if mode is Pooling.TRANSACTION and leaking:
        return warning(
            "W020",
            "A pooler in transaction mode stands before the server: what"
            f" {' and '.join(leaking)} set stays on connections that others are lent.",
            hint="Leave them out: the layer's functions run with their owner's rights.",
        )
    return None


async def _lacking(connection: Connection) -> checks.Warning | None:
    """Look for the functions that the layer calls."""
    database, user = await _first(connection, _WHERE)
    cursor = await connection.execute(_FUNCTIONS, [list(function_names())])
    seen = {str(name): bool(allowed) for name, allowed in await cursor.fetchall()}
    missing = function_names() - seen.keys()
    if missing:
        return warning(
            "W010",
            f"The layer's tables and functions are not there: {len(missing)} of"
            f" {len(function_names())} functions are missing in the database {database!r}, or"
            f" {user!r} cannot see them.",
            hint=f"{_migrate(connection)} Then check that its schema is in the search_path of this"
            " login, with USAGE on it.",
        )
    forbidden = sorted(name for name, allowed in seen.items() if not allowed)
    if forbidden:
        return warning(
            "W011",
            f"This login may not call the layer's functions: {', '.join(forbidden)}.",
            hint="Run what `manage.py channels_pg_secrets grants --role ROLE` prints, and make this"
            f" login a member of that role: GRANT ROLE TO {quoted(user)}. Or, for this login alone,"
            f" as the owner: GRANT EXECUTE ON FUNCTION {', '.join(forbidden)} TO {quoted(user)};",
        )
    return None


async def _isolated(connection: Connection) -> checks.Warning | None:
    """Look whether the login's statements see what others commit meanwhile."""
    level, user = await _first(connection, _ISOLATION)
    if level in ("read committed", "read uncommitted"):  # the same, in PostgreSQL
        return None
    return warning(
        "W021",
        f"default_transaction_isolation is {level!r} for this login: a message to a process that"
        " comes back in the same moment, after a crash of the server, may be passed over.",
        hint=f"ALTER ROLE {quoted(user)} SET default_transaction_isolation = 'read committed'; that"
        " also belongs in the statements by which a store makes logins. If OPTIONS['options']"
        " sets another, leave it out.",
    )


async def _deaf(engine: PostgresEngine, connection: Connection) -> checks.Warning | None:
    """Open the listening connection, and let it hear once."""
    try:
        listener = await engine.open_connection(listener=True)
    except Exception as error:  # noqa: BLE001 - as above
        return explained(engine, error, "LISTEN: ")
    try:
        database, _ = await _first(connection, _WHERE)
        other, _ = await _first(listener.connection, _WHERE)
        if other != database:
            return warning(
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
        return explained(engine, error, "LISTEN: ")
    finally:
        await listener.close()
    return warning(
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


def _version(info: psycopg.ConnectionInfo) -> str:
    return f"{info.server_version // 10000}.{info.server_version % 10000}"
