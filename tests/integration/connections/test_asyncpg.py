"""asyncpg connections that follow a source, against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import asyncpg
import pytest

from pg_secrets import Credentials, CredentialSource, Lease, LoginRejected, outdated
from pg_secrets.asyncpg import connect
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase, Login


async def test_user_and_password_are_the_sources_and_all_else_the_callers(
    source: CredentialSource, login: Login
) -> None:
    """A user given by the caller does not count, an application name does."""
    settings = {"application_name": "mine"}
    connection = await connect(source, user="nobody", password="wrong", server_settings=settings)
    row = await connection.fetchrow(
        "SELECT session_user::text, current_setting('application_name')"
    )
    assert tuple(row) == (login.user, "mine")
    await connection.close()


async def test_libpqs_keywords_of_the_credentials_are_understood(
    adapter: ScriptedAdapter, source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """sslmode, options, application_name and connect_timeout mean what they mean to psycopg."""
    found = database.credentials(login)
    keywords = {
        "sslmode": "disable",
        "connect_timeout": 3,
        "application_name": "a b&c",
        "options": "-c work_mem=1MB",
    }
    adapter.then(found.replace(parameters={**found.parameters, **keywords}))
    connection = await connect(source)
    row = await connection.fetchrow(
        "SELECT current_setting('application_name'), current_setting('work_mem')"
    )
    assert tuple(row) == ("a b&c", "1MB")
    await connection.close()


async def test_dsn_of_the_caller_wins(source: CredentialSource, database: FreshDatabase) -> None:
    """A DSN says where to connect to, and its user and password do not count."""
    server = database.server
    connection = await connect(
        source, f"postgresql://nobody:wrong@{server.host}:{server.port}/{database.name}"
    )
    assert await connection.fetchval("SELECT current_database()") == database.name
    await connection.close()


@pytest.mark.parametrize(
    ("spoil", "sqlstate"),
    [
        ("ALTER ROLE \"{user}\" PASSWORD 'another'", "28P01"),
        ('ALTER ROLE "{user}" NOLOGIN', "28000"),
        ('DROP ROLE "{user}"', "28P01"),
    ],
)
async def test_refused_login_is_reported(
    source: CredentialSource, database: FreshDatabase, login: Login, spoil: str, sqlstate: str
) -> None:
    """A refusal is told to the source, and its error says why and when to come back."""
    database.execute(spoil.format(user=login.user))
    with pytest.raises(LoginRejected, match="tried again in") as caught:
        await connect(source, rejection_timeout=0.0)
    assert caught.value.sqlstate == sqlstate
    assert source.stats()["rejections"] == 1


@pytest.mark.parametrize("sqlstate", ["53300", "3D000"])
async def test_outage_is_no_rejection(
    source: CredentialSource,
    adapter: ScriptedAdapter,
    database: FreshDatabase,
    login: Login,
    sqlstate: str,
) -> None:
    """Too many connections and a missing database come back at once, and nobody refetches."""
    params: dict[str, Any] = {"database": "no_such_database"} if sqlstate == "3D000" else {}
    if not params:
        database.execute(f'ALTER ROLE "{login.user}" CONNECTION LIMIT 0')
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connect(source, **params)
    assert caught.value.sqlstate == sqlstate
    assert adapter.fetches == 1


async def test_end_of_the_role_becomes_the_expiry(
    source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """rolvaliduntil is read after connecting, and the source counts with it."""
    end = int(time.time()) + 7200
    stamp = datetime.fromtimestamp(end, tz=timezone.utc).isoformat()
    database.execute(f"""ALTER ROLE "{login.user}" VALID UNTIL '{stamp}'""")
    connection = await connect(source)
    assert source.get().expires_at == end
    await connection.close()


async def _close(connection: asyncpg.Connection) -> None:
    await connection.close()


async def _terminate(connection: asyncpg.Connection) -> None:
    connection.terminate()


@pytest.mark.parametrize("end", [_close, _terminate])
async def test_lease_is_given_back_when_its_connection_is_closed(
    database: FreshDatabase, end: Callable[..., Any]
) -> None:
    """A replaced lease lives as long as the connection that logged in with it."""

    def hand_out() -> Credentials:
        made = database.login()
        return database.credentials(made, lease=Lease(id=made.user, duration=3600.0))

    adapter = ScriptedAdapter(hand_out)
    source = CredentialSource(adapter)
    connection = await connect(source)
    old = source.get()
    assert not outdated(connection)
    source.refresh()
    assert outdated(connection)
    assert (adapter.revoked, source.stats()["holds"]) == ([], 1)
    await end(connection)
    await asyncio.to_thread(adapter.wait_for, lambda: bool(adapter.revoked))
    assert [gone.user for gone in adapter.revoked] == [old.user]
    source.close()


async def test_pool_names_the_class_of_its_connections(
    source: CredentialSource, database: FreshDatabase
) -> None:
    """A pool with a connection class of its own gets connections of that class."""

    class Mine(asyncpg.Connection):  # type: ignore[misc]
        def whose(self) -> str:
            return "mine"

    async def opened(*args: Any, **params: Any) -> asyncpg.Connection:
        return await connect(source, *args, **params)

    pool = asyncpg.create_pool(connect=opened, connection_class=Mine, min_size=1, max_size=1)
    async with pool, pool.acquire() as connection:
        assert connection.whose() == "mine"
        assert not outdated(connection)


def test_strangers_connection_is_not_called_good() -> None:
    """Whether a connection of somebody else is outdated cannot be said, and so it is not."""
    with pytest.raises(TypeError, match="not object"):
        outdated(object())
