"""The recipes of examples/recipes, each behind one question: who is logged in?"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

import pg_secrets.asyncpg
from pg_secrets import Credentials, CredentialSource, Lease, aconnect
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase

RECIPES = Path(__file__).parents[3] / "examples" / "recipes"
PATIENCE = 10.0

Ask = Callable[[], str]
Running = Callable[[Coroutine[Any, Any, Any]], Any]


def load(name: str) -> Any:
    """Import a recipe from its file."""
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def sessions(database: FreshDatabase, user: str | None) -> int:
    """Return how many sessions of a user there are."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    return int(database.server.execute(query, (user,))[0][0])


class RolesOnLease(ScriptedAdapter):
    """Makes a role per fetch, and drops it with its sessions when it is given back: Vault's way."""

    def __init__(self, database: FreshDatabase) -> None:
        super().__init__(self._make)
        self._database, self._leases = database, itertools.count(1)
        self.ended = set[str | None]()

    def _make(self) -> Credentials:
        lease = Lease(id=f"lease-{next(self._leases)}", duration=3600.0, renewable=True)
        return self._database.credentials(self._database.login(), lease=lease)

    def revoke(self, credentials: Credentials) -> None:
        if credentials.user not in self.ended:
            self.end(credentials)
        super().revoke(credentials)

    def end(self, credentials: Credentials) -> None:
        """End a role's sessions and drop it."""
        self.ended.add(credentials.user)
        self._database.execute(f'ALTER ROLE "{credentials.user}" NOLOGIN')
        self._database.terminate(str(credentials.user))
        wait_until(lambda: sessions(self._database, credentials.user) == 0)
        self._database.execute(f'DROP ROLE "{credentials.user}"')


@pytest.fixture
def store(database: FreshDatabase) -> RolesOnLease:
    """A store that has another role at each fetch."""
    return RolesOnLease(database)


@pytest.fixture
def source(store: RolesOnLease) -> Iterator[CredentialSource]:
    made = CredentialSource(store)
    yield made
    made.close()


@contextmanager
def looping() -> Iterator[Running]:
    """Run coroutines on a loop that goes on running in a thread of its own, as an application's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def psycopg_for_a_moment(source: CredentialSource, stack: ExitStack) -> Ask:
    recipe = load("with_psycopg")
    return lambda: str(recipe.who(source))


def psycopg_kept(source: CredentialSource, stack: ExitStack) -> Ask:
    kept = load("with_psycopg").Kept(source)
    stack.callback(lambda: kept.get().close())

    def ask() -> str:
        try:
            return str(kept.get().execute("SELECT session_user").fetchone()[0])
        except psycopg.OperationalError:
            return str(kept.get().execute("SELECT session_user").fetchone()[0])

    return ask


def psycopg_pool(source: CredentialSource, stack: ExitStack) -> Ask:
    pool = stack.enter_context(load("with_psycopg_pool").open_pool(source))

    def ask() -> str:
        with pool.connection(timeout=PATIENCE) as connection:
            return str(connection.execute("SELECT session_user").fetchone()[0])

    return ask


def psycopg_async_pool(source: CredentialSource, stack: ExitStack) -> Ask:
    run = stack.enter_context(looping())
    pool_context = load("with_psycopg_pool").open_async_pool(source)
    pool = run(pool_context.__aenter__())
    stack.callback(lambda: run(pool_context.__aexit__(None, None, None)))

    async def ask() -> str:
        async with pool.connection(timeout=PATIENCE) as connection:
            cursor = await connection.execute("SELECT session_user")
            return str((await cursor.fetchone())[0])

    return lambda: str(run(ask()))


def sqlalchemy(source: CredentialSource, stack: ExitStack) -> Ask:
    engine = load("with_sqlalchemy").make_engine(source)
    stack.callback(engine.dispose)

    def ask() -> str:
        with engine.connect() as connection:
            return str(connection.scalar(text("SELECT session_user")))

    return ask


def sqlalchemy_async(
    open_connection: Callable[..., Any], url: str, source: CredentialSource, stack: ExitStack
) -> Ask:
    run = stack.enter_context(looping())
    recipe = load("with_sqlalchemy_async")
    engine = recipe.make_engine(partial(open_connection, source), url)
    stack.callback(lambda: run(engine.dispose()))

    async def ask() -> str:
        async with engine.connect() as connection:
            return str(await connection.scalar(text("SELECT session_user")))

    return lambda: str(run(ask()))


def asyncpg(source: CredentialSource, stack: ExitStack) -> Ask:
    run = stack.enter_context(looping())
    pool_context = load("with_asyncpg").open_pool(source)
    pool = run(pool_context.__aenter__())
    stack.callback(lambda: run(pool_context.__aexit__(None, None, None)))
    return lambda: str(run(pool.fetchval("SELECT session_user")))


WAYS: dict[str, Callable[[CredentialSource, ExitStack], Ask]] = {
    "psycopg": psycopg_for_a_moment,
    "psycopg-kept": psycopg_kept,
    "psycopg_pool": psycopg_pool,
    "psycopg_pool-async": psycopg_async_pool,
    "sqlalchemy": sqlalchemy,
    "sqlalchemy-async": partial(sqlalchemy_async, aconnect, "postgresql+psycopg://"),
    "sqlalchemy-asyncpg": partial(
        sqlalchemy_async, pg_secrets.asyncpg.connect, "postgresql+asyncpg://"
    ),
    "asyncpg": asyncpg,
}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, source: CredentialSource) -> Iterator[Ask]:
    """Ask through one of the recipes who is logged in."""
    with ExitStack() as stack:
        yield WAYS[request.param](source, stack)
