"""Connections that follow a source, against a real server whose passwords change."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

from pg_secrets import (
    Credentials,
    CredentialsDenied,
    CredentialSource,
    Lease,
    LoginRejected,
    aconnect,
    connect,
    pool_kwargs,
)
from pg_secrets.connect import VALID_UNTIL_SQL, open_sync
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase, Login

PATIENCE = 15.0


def connect_on_a_loop(*args: Any, **params: Any) -> Any:
    """Connect as aconnect() does and read the session's user, closing the connection."""

    async def whole() -> tuple[Any, ...]:
        async with await aconnect(*args, **params) as connection:
            cursor = await connection.execute("SELECT session_user::text")
            row: tuple[Any, ...] | None = await cursor.fetchone()
            assert row is not None
            return row

    return asyncio.run(whole())[0]


def connect_in_a_thread(*args: Any, **params: Any) -> Any:
    """Do the same with connect()."""
    with connect(*args, **params) as connection:
        row = connection.execute("SELECT session_user::text").fetchone()
        assert row is not None
        return row[0]


@pytest.fixture(params=[connect_in_a_thread, connect_on_a_loop], ids=["sync", "async"])
def session_user(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Connect, say who is logged in, and close."""
    either: Callable[..., Any] = request.param
    return either


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_logs_in_with_the_sources_credentials(
    source: CredentialSource, login: Login, session_user: Callable[..., Any]
) -> None:
    """A connection is opened as the source's user, on its host and database."""
    assert session_user(source) == login.user


def test_user_and_password_are_the_sources_and_all_else_the_callers(
    source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """A user given by the caller does not count, an application name and a row factory do."""
    with connect(
        source, user="nobody", password="wrong", application_name="mine", row_factory=dict_row
    ) as connection:
        cursor = connection.execute(
            "SELECT session_user::text, current_setting('application_name') AS name"
        )
        assert cursor.fetchone() == {"session_user": login.user, "name": "mine"}
        assert connection.autocommit is False


def test_connection_is_handed_over_idle(source: CredentialSource) -> None:
    """What connect() asked the server leaves no transaction behind, and autocommit is obeyed."""
    with connect(source) as connection:
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with connect(source, autocommit=True) as connection:
        assert connection.autocommit is True


def test_rejected_password_is_replaced_by_what_the_store_has_now(
    source: CredentialSource,
    adapter: ScriptedAdapter,
    database: FreshDatabase,
    login: Login,
    session_user: Callable[..., Any],
) -> None:
    """When the password changed everywhere, connect() gets the new one and succeeds."""
    source.get()
    adapter.then(database.credentials(database.set_password(login.user)))
    assert session_user(source) == login.user
    assert source.generation == 2


def test_store_that_lags_is_waited_for(
    source: CredentialSource,
    adapter: ScriptedAdapter,
    database: FreshDatabase,
    login: Login,
    session_user: Callable[..., Any],
) -> None:
    """When the database changed first, connect() waits until the store has the new password."""
    old = source.get()
    new = database.credentials(database.set_password(login.user))
    adapter.then(old, old, new)
    assert session_user(source) == login.user
    assert adapter.fetches >= 3


def attempts_of(database: FreshDatabase, user: str) -> int:
    return database.server.log_tail(100_000).count(
        f'password authentication failed for user "{user}"'
    )


def test_rejected_password_is_tried_on_schedule(
    source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """While the store has nothing else the server sees few attempts, however often one asks."""
    source.get()
    database.set_password(login.user)
    start, asked = time.monotonic(), 0
    while time.monotonic() - start < 3.0:
        with pytest.raises(LoginRejected, match="tried again in"):
            connect(source, rejection_timeout=0.0)
        asked += 1
    admitted = sum(at <= time.monotonic() - start for at in (0.0, 0.5, 1.5, 3.5, 7.5))
    assert asked > 2 * admitted
    wait_until(lambda: attempts_of(database, login.user) >= 1)
    assert attempts_of(database, login.user) <= admitted


def test_database_that_lags_is_tried_again_later(
    source: CredentialSource,
    adapter: ScriptedAdapter,
    database: FreshDatabase,
    login: Login,
    session_user: Callable[..., Any],
) -> None:
    """When the store changed first, the same password is accepted once the database has it."""
    new = Login(login.user, "the-next-password")
    adapter.then(database.credentials(new))
    with pytest.raises(LoginRejected) as caught:
        connect(source, rejection_timeout=0.0)
    assert caught.value.sqlstate == "28P01"
    database.set_password(login.user, new.password)
    wait_until(lambda: source.gate.remaining(source.get().fingerprint) == 0.0)
    assert session_user(source) == login.user
    assert source.gate.remaining(source.get().fingerprint) == 0.0


def test_role_without_login_is_a_rejection(
    source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """A role that may no longer log in needs other credentials: 28000."""
    database.execute(f'ALTER ROLE "{login.user}" NOLOGIN')
    with pytest.raises(LoginRejected) as caught:
        connect(source, rejection_timeout=0.0)
    assert caught.value.sqlstate == "28000"


@pytest.mark.parametrize(
    ("spoil", "sqlstate"),
    [('ALTER ROLE "{user}" CONNECTION LIMIT 0', "53300"), (None, "3D000")],
)
def test_outage_is_no_rejection(
    source: CredentialSource,
    adapter: ScriptedAdapter,
    database: FreshDatabase,
    login: Login,
    spoil: str | None,
    sqlstate: str,
) -> None:
    """Too many connections and a missing database come back at once, and nobody refetches."""
    params: dict[str, Any] = {}
    if spoil is None:
        params["dbname"] = "no_such_database"
    else:
        database.execute(spoil.format(user=login.user))
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(source, **params)
    assert not isinstance(caught.value, LoginRejected)
    assert caught.value.sqlstate == sqlstate
    assert caught.value.pgconn is None
    assert adapter.fetches == 1


def test_sqlstates_are_not_verbose_afterwards(
    source: CredentialSource,
) -> None:
    """Errors on an open connection read as usual, without the server's source line."""
    with (
        connect(source) as connection,
        pytest.raises(psycopg.errors.DivisionByZero) as caught,
    ):
        connection.execute("SELECT 1/0")
    assert str(caught.value) == "division by zero"


def test_end_of_the_role_becomes_the_expiry(
    source: CredentialSource, database: FreshDatabase, login: Login
) -> None:
    """rolvaliduntil is read after connecting, and the source counts with it."""
    end = int(time.time()) + 7200
    stamp = datetime.fromtimestamp(end, tz=timezone.utc).isoformat()
    database.execute(f"""ALTER ROLE "{login.user}" VALID UNTIL '{stamp}'""")
    assert source.get().expires_at is None
    connect(source).close()
    assert source.get().expires_at == end


@pytest.mark.parametrize("end", ["infinity", None])
def test_role_without_an_end_has_no_expiry(
    source: CredentialSource, database: FreshDatabase, login: Login, end: str | None
) -> None:
    """A role that is valid until infinity, or without a date, does not expire."""
    if end is not None:
        database.execute(f"""ALTER ROLE "{login.user}" VALID UNTIL '{end}'""")
    with connect(source) as connection:
        assert connection.execute(VALID_UNTIL_SQL).fetchone() == (None,)
    assert source.get().expires_at is None


@pytest.fixture
def leased(database: FreshDatabase) -> Iterator[tuple[CredentialSource, ScriptedAdapter]]:
    """A source whose every fetch is a lease on a role of its own."""

    def hand_out() -> Credentials:
        made = database.login()
        lease = Lease(id=f"lease-of-{made.user}", duration=3600.0, renewable=True)
        return database.credentials(made, lease=lease)

    adapter = ScriptedAdapter(hand_out)
    source = CredentialSource(adapter)
    yield source, adapter
    source.close()


def test_lease_is_given_back_when_its_connections_are_closed(
    leased: tuple[CredentialSource, ScriptedAdapter],
) -> None:
    """A replaced lease lives exactly as long as connections that logged in with it."""
    source, adapter = leased
    one, two = connect(source), asyncio.run(_open(source))
    old = source.get()
    assert source.stats()["holds"] == 2
    source.refresh()
    one.close()
    assert adapter.revoked == []
    asyncio.run(two.close())
    adapter.wait_for(lambda: [c.user for c in adapter.revoked] == [old.user])


async def _open(source: CredentialSource) -> psycopg.AsyncConnection[Any]:
    return await aconnect(source)


def test_lease_of_a_forgotten_connection_is_given_back(
    leased: tuple[CredentialSource, ScriptedAdapter],
) -> None:
    """A connection that is dropped without being closed does not hold its lease for ever."""
    source, adapter = leased
    connection = connect(source)
    source.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del connection
        gc.collect()
    adapter.wait_for(lambda: len(adapter.revoked) == 1)


def test_failed_connect_holds_nothing(
    leased: tuple[CredentialSource, ScriptedAdapter],
) -> None:
    """A lease whose connect failed is not held."""
    source, _ = leased
    with pytest.raises(psycopg.OperationalError):
        connect(source, dbname="no_such_database")
    assert source.stats()["holds"] == 0


async def test_cancelled_connect_holds_nothing(
    leased: tuple[CredentialSource, ScriptedAdapter],
) -> None:
    """A connect that is cancelled releases the lease and leaves no session behind."""
    source, _ = leased
    await source.aget()
    task = asyncio.ensure_future(aconnect(source))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.stats()["holds"] == 0


def test_no_credentials_no_connection(session_user: Callable[..., Any]) -> None:
    """Where the store refuses, connecting fails with the store's words."""
    source = CredentialSource(ScriptedAdapter(CredentialsDenied("policy")), background=False)
    with pytest.raises(CredentialsDenied, match="policy"):
        session_user(source)
    source.close()


def test_dropped_role_is_reported_as_a_rejection(
    source: CredentialSource, adapter: ScriptedAdapter, database: FreshDatabase, login: Login
) -> None:
    """42704 on an open session is a rotation signal: the store is asked for something else."""
    connection = connect(source, autocommit=True)
    used = source.get()
    database.execute(f'DROP ROLE "{login.user}"')
    adapter.then(database.credentials(database.login()))
    with pytest.raises(psycopg.errors.UndefinedObject) as caught:
        connection.execute("SELECT session_user")
    source.rejected(used, caught.value.sqlstate)
    connection.close()
    with connect(source) as again:
        assert again.info.user == source.get().user != login.user


def test_opened_connection_is_of_the_class_asked_for(database: FreshDatabase, login: Login) -> None:
    """open_sync() returns exactly the class it was given, subclass or not."""

    class Mine(psycopg.Connection[Any]):
        pass

    for kind in (psycopg.Connection, Mine):
        with open_sync(database.connection_params(login), connection_class=kind) as connection:
            assert type(connection) is kind


# pools ------------------------------------------------------------------------------------


def test_pool_follows_a_rotation(
    source: CredentialSource, adapter: ScriptedAdapter, database: FreshDatabase, login: Login
) -> None:
    """A pool whose sessions were ended after a password change serves its clients again."""
    with psycopg_pool.ConnectionPool(**pool_kwargs(source), min_size=1, open=True) as pool:
        with pool.connection(timeout=PATIENCE) as connection:
            connection.execute("SELECT 1")
        adapter.then(database.credentials(database.set_password(login.user)))
        database.terminate(login.user)
        with (
            pytest.raises(psycopg.OperationalError),
            pool.connection(timeout=PATIENCE) as connection,
        ):
            connection.execute("SELECT 1")
        with pool.connection(timeout=PATIENCE) as connection:
            row = connection.execute("SELECT session_user::text").fetchone()
    assert row == (login.user,)
    assert source.generation == 2


async def test_async_pool_follows_a_rotation(
    source: CredentialSource, adapter: ScriptedAdapter, database: FreshDatabase, login: Login
) -> None:
    """The same keyword arguments serve an asynchronous pool."""
    kwargs = pool_kwargs(source, application_name="pooled")
    pool = psycopg_pool.AsyncConnectionPool(**kwargs, min_size=1, open=False)
    async with pool:
        async with pool.connection(timeout=PATIENCE) as connection:
            cursor = await connection.execute("SELECT current_setting('application_name')")
            assert await cursor.fetchone() == ("pooled",)
        adapter.then(database.credentials(database.set_password(login.user)))
        database.terminate(login.user)
        with pytest.raises(psycopg.OperationalError):
            async with pool.connection(timeout=PATIENCE) as connection:
                await connection.execute("SELECT 1")
        async with pool.connection(timeout=PATIENCE) as connection:
            cursor = await connection.execute("SELECT session_user::text")
            assert await cursor.fetchone() == (login.user,)
    assert source.generation == 2


def test_pools_connection_takes_everything_from_one_snapshot(
    adapter: ScriptedAdapter, database: FreshDatabase, login: Login
) -> None:
    """After a refusal a pool goes where the new credentials lead, not where the old ones did."""
    right = database.credentials(login)
    elsewhere = {**right.parameters, "dbname": "postgres"}
    adapter.then(right.replace(password="wrong", parameters=elsewhere), right)
    source = CredentialSource(adapter, background=False)
    with (
        psycopg_pool.ConnectionPool(**pool_kwargs(source), min_size=1, open=True) as pool,
        pool.connection(timeout=PATIENCE) as connection,
    ):
        assert connection.info.dbname == database.name
    source.close()


def test_pools_own_arguments_count(source: CredentialSource) -> None:
    """What the pool is given itself is passed on beside what pool_kwargs() was given."""
    kwargs = pool_kwargs(source, application_name="pooled")
    with (
        psycopg_pool.ConnectionPool(
            "options='-c work_mem=1MB'", kwargs={"autocommit": True}, **kwargs, open=True
        ) as pool,
        pool.connection(timeout=PATIENCE) as connection,
    ):
        row = connection.execute(
            "SELECT current_setting('application_name'), current_setting('work_mem')"
        ).fetchone()
        assert (row, connection.autocommit) == (("pooled", "1MB"), True)


async def test_synchronous_pool_may_connect_in_a_loops_thread(
    source: CredentialSource, login: Login
) -> None:
    """A null pool with a synchronous class gets a connection where a loop runs, no awaitable."""
    kwargs = pool_kwargs(source, connection_class=psycopg.Connection)
    with (
        psycopg_pool.NullConnectionPool(**kwargs, open=True) as pool,
        pool.connection(timeout=PATIENCE) as connection,
    ):
        assert connection.info.user == login.user


def test_what_belongs_to_the_pool_is_refused() -> None:
    """Each connect would fail with it, in the pool's own threads and log."""
    with pytest.raises(TypeError, match="max_size"):
        pool_kwargs(CredentialSource(ScriptedAdapter()), dbname="app", max_size=3)
