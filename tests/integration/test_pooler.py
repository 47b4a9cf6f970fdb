"""Finding out what stands between a login and its server, with a real PgBouncer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.pooler import Pooling, follows_prepared_statements, pooling
from channels_pg_secrets.readiness import examine
from pg_secrets.testing.database import FreshDatabase, Login
from tests.chaos.servers import PgBouncer
from tests.integration.layer.conftest import migrate

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="there is no PgBouncer")


@pytest.fixture
def login(database: FreshDatabase) -> Login:
    migrate(database)
    return database.login()


@pytest.fixture
def pgbouncer(database: FreshDatabase, login: Login) -> Iterator[PgBouncer]:
    """One before a migrated database."""
    server = PgBouncer(database, login)
    yield server
    server.stop()


def settings(database: FreshDatabase, login: Login, pgbouncer: PgBouncer, name: str) -> Any:
    return {
        **database.settings(login),
        "NAME": name,
        "HOST": pgbouncer.host,
        "PORT": pgbouncer.port,
    }


async def two(database: FreshDatabase, login: Login, port: int, name: str) -> Any:
    keywords: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "dbname": name,
        "user": login.user,
        "password": login.password,
        "autocommit": True,
    }
    return [await psycopg.AsyncConnection.connect(**keywords) for _ in range(2)]


async def test_modes_are_told_apart(
    database: FreshDatabase, login: Login, pgbouncer: PgBouncer
) -> None:
    """No pooler, and one in each of PgBouncer's modes."""
    places = {
        Pooling.NONE: (database.server.port, database.name),
        Pooling.SESSION: (pgbouncer.port, pgbouncer.session),
        Pooling.TRANSACTION: (pgbouncer.port, database.name),
        Pooling.STATEMENT: (pgbouncer.port, pgbouncer.statement),
    }
    for mode, (port, name) in places.items():
        one, other = await two(database, login, port, name)
        assert await pooling(one, other) is mode
        await one.close()
        await other.close()


async def test_prepared_statements_that_are_lost_are_noticed(
    database: FreshDatabase, login: Login, pgbouncer: PgBouncer
) -> None:
    """By trying one: PgBouncer follows them from 1.21 on, if it is told to."""
    one, other = await two(database, login, pgbouncer.port, database.name)
    assert not await follows_prepared_statements(one, other)
    await one.close()
    await other.close()
    one, other = await two(database, login, database.server.port, database.name)
    assert await follows_prepared_statements(one, other)
    await one.close()
    await other.close()


def examined(config: dict[str, Any]) -> Any:
    return examine(PostgresEngine(config), "layer", thorough=True)


def test_what_does_not_go_with_transaction_mode_is_found(
    database: FreshDatabase, login: Login, pgbouncer: PgBouncer
) -> None:
    """One after the other: prepared statements, what is set for a session, and LISTEN."""
    config = settings(database, login, pgbouncer, database.name)
    found = examined(config)
    assert found.steps[-1].seen == "there is one, in transaction mode"
    assert found.finding.id == "channels_pg_secrets.W020"
    assert "'prepare_threshold': None" in found.finding.hint
    config["OPTIONS"] = {"prepare_threshold": None}
    found = examined({**config, "TIME_ZONE": "UTC"})
    assert found.finding.id == "channels_pg_secrets.W020"
    assert "TIME_ZONE" in found.finding.msg
    direct = database.settings(login)
    listen = {"HOST": direct["HOST"], "PORT": direct["PORT"]}
    found = examined({**config, "LISTEN": listen})
    assert found.finding is None
    assert [step.name for step in found.steps] == ["log in", "pooler", "rights", "listen"]


def test_statement_mode_is_refused(
    database: FreshDatabase, login: Login, pgbouncer: PgBouncer
) -> None:
    """The layer needs transactions."""
    found = examined(settings(database, login, pgbouncer, pgbouncer.statement))
    assert found.finding.id == "channels_pg_secrets.W020"
    assert "statement mode" in found.finding.msg


def test_session_mode_is_fine(database: FreshDatabase, login: Login, pgbouncer: PgBouncer) -> None:
    """Nothing has to be set for it."""
    assert examined(settings(database, login, pgbouncer, pgbouncer.session)).finding is None
