"""Connections that are in use when the login changes."""

from __future__ import annotations

from functools import partial

from asyncpg import connect
from sqlalchemy import text

from pg_secrets import CredentialSource, aconnect
from pg_secrets.testing.database import FreshDatabase
from tests.integration.recipes.conftest import RolesOnLease, load, sessions, wait_until

WHO = "SELECT session_user"


def test_psycopg_pools_connection_in_use_is_closed_when_it_is_back(
    source: CredentialSource, database: FreshDatabase
) -> None:
    """A rotation leaves a transaction alone, and its connection is nobody's afterwards."""
    with load("with_psycopg_pool").open_pool(source) as pool:
        with pool.connection() as connection:
            first = connection.info.user
            source.refresh()
            assert connection.execute(WHO).fetchone() == (first,)
        wait_until(lambda: sessions(database, first) == 0)
        wait_until(lambda: sessions(database, source.get().user) == 1)


async def test_psycopg_async_pools_connection_in_use_is_closed_when_it_is_back(
    source: CredentialSource,
) -> None:
    """The same holds for a pool on an event loop, in whatever thread the rotation is noticed."""
    async with load("with_psycopg_pool").open_async_pool(source) as pool:
        async with pool.connection() as connection:
            first = connection.info.user
            source.refresh()
            cursor = await connection.execute(WHO)
            assert await cursor.fetchone() == (first,)
        async with pool.connection() as connection:
            assert connection.info.user == source.get().user != first


def test_sqlalchemys_connection_in_use_is_closed_when_it_is_back(
    source: CredentialSource, database: FreshDatabase
) -> None:
    """A rotation leaves a transaction alone, and its connection is closed afterwards."""
    engine = load("with_sqlalchemy").make_engine(source)
    with engine.connect() as connection:
        first = connection.scalar(text(WHO))
        source.refresh()
        assert connection.scalar(text(WHO)) == first
    assert sessions(database, first) == 0
    assert engine.pool.checkedin() == 1
    with engine.connect() as connection:
        assert connection.scalar(text(WHO)) == source.get().user
    engine.dispose()


async def test_async_sqlalchemys_connection_in_use_is_closed_when_it_is_back(
    source: CredentialSource, database: FreshDatabase
) -> None:
    """The same holds for an engine on an event loop."""
    engine = load("with_sqlalchemy_async").make_engine(partial(aconnect, source))
    async with engine.connect() as connection:
        first = await connection.scalar(text(WHO))
        source.refresh()
        assert await connection.scalar(text(WHO)) == first
    wait_until(lambda: sessions(database, first) == 0)
    async with engine.connect() as connection:
        assert await connection.scalar(text(WHO)) == source.get().user
    await engine.dispose()


async def test_asyncpg_pools_connection_in_use_is_closed_when_it_is_back(
    source: CredentialSource, database: FreshDatabase
) -> None:
    """A rotation leaves a transaction alone, and its connection is closed afterwards."""
    async with load("with_asyncpg").open_pool(source) as pool:
        async with pool.acquire() as connection:
            first = await connection.fetchval(WHO)
            source.refresh()
            assert await connection.fetchval(WHO) == first
        wait_until(lambda: sessions(database, first) == 0)
        assert await pool.fetchval(WHO) == source.get().user


async def test_asyncpgs_password_callable_is_asked_for_each_connection(
    source: CredentialSource, store: RolesOnLease, database: FreshDatabase
) -> None:
    """A password that the store knows first is used for the connections opened from then on."""
    first = await source.aget()
    store.ended.add(first.user)  # he stays when the lease that made him is given back
    recipe, place = load("with_asyncpg"), database.connection_params()
    where = {"host": place["host"], "port": place["port"], "database": database.name}
    for _ in range(2):
        connection = await connect(user=first.user, password=recipe.password_of(source), **where)
        assert await connection.fetchval(WHO) == first.user
        await connection.close()
        changed = database.set_password(str(first.user))
        store.then(first.replace(password=changed.password, lease=None))
        source.refresh()
