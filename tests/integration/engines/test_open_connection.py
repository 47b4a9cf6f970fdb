"""Opening connections on a real server: parameters, credentials, refusals, sessions."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import sys
import time
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from django.db.backends.postgresql import base as postgresql
from psycopg.rows import dict_row

from channels_pg_secrets.engines import OpenedConnection, PostgresEngine
from channels_pg_secrets.engines.factory import build_engine
from pg_secrets.connect import LoginRejected
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import CredentialsUnavailable
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.proxy import FaultProxy


def credentials(login: Login, **more: Any) -> Credentials:
    return Credentials(user=login.user, password=login.password, **more)


@pytest.fixture
def adapter() -> ScriptedAdapter:
    return ScriptedAdapter()


@pytest.fixture
def source(adapter: ScriptedAdapter) -> Iterator[CredentialSource]:
    source = CredentialSource(adapter, background=False)
    yield source
    source.close()


async def one(opened: OpenedConnection, query: str) -> Any:
    row = await (await opened.connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


async def test_settings_as_in_databases(database: FreshDatabase) -> None:
    """NAME, HOST, PORT, USER and PASSWORD are enough, and the session is in autocommit."""
    engine = PostgresEngine(database.settings(database.login()))
    opened = await engine.open_connection()
    assert await one(opened, "SELECT current_database()") == database.name
    assert opened.connection.autocommit
    assert (opened.credentials, opened.generation) == (None, 0)
    await opened.close()
    await opened.close()
    assert opened.connection.closed


async def test_the_session_is_named_and_guarded(database: FreshDatabase) -> None:
    """Every session carries our name, and the socket gives up on a dead peer in 30 s."""
    engine = PostgresEngine(database.settings(database.login()))
    opened = await engine.open_connection()
    assert await one(opened, "SHOW application_name") == "channels_pg_secrets"
    found = {
        option.keyword: option.val
        for option in opened.connection.pgconn.info
        if option.keyword in (b"tcp_user_timeout", b"connect_timeout")
    }
    assert found[b"tcp_user_timeout"] == b"30000"
    assert int(found[b"connect_timeout"] or 0) > 0
    await opened.close()


async def test_options_reach_libpq_and_the_session(database: FreshDatabase) -> None:
    """libpq's keywords are passed on, the role is assumed, the time zone set, the rest is kept."""
    login = database.login()
    database.execute(f'GRANT "{database.runtime}" TO "{login.user}"')
    engine = PostgresEngine(
        database.settings(
            login,
            TIME_ZONE="Europe/Zurich",
            OPTIONS={
                "application_name": "chat",
                "assume_role": database.runtime,
                "prepare_threshold": None,
                "server_side_binding": True,
            },
        )
    )
    opened = await engine.open_connection()
    assert await one(opened, "SHOW application_name") == "chat"
    assert await one(opened, "SELECT current_user::text") == database.runtime
    assert await one(opened, "SHOW TimeZone") == "Europe/Zurich"
    assert opened.connection.prepare_threshold is None
    assert engine.prepare_threshold is None
    await opened.close()


async def test_prepared_statements_are_on_unless_turned_off(database: FreshDatabase) -> None:
    """Django's default of None, which is for poolers, does not count as somebody's wish."""
    engine = PostgresEngine(database.settings(database.login()))
    opened = await engine.open_connection()
    assert opened.connection.prepare_threshold == engine.prepare_threshold == 5
    await opened.close()


async def test_the_listener_is_never_idle_for_too_long(database: FreshDatabase) -> None:
    """A server's idle_session_timeout does not apply to the listening session, and to it alone."""
    login = database.login()
    database.execute(f"ALTER ROLE \"{login.user}\" SET idle_session_timeout = '1h'")
    engine = PostgresEngine(database.settings(login))
    listening = await engine.open_connection(listener=True)
    publishing = await engine.open_connection()
    assert await one(listening, "SHOW idle_session_timeout") == "0"
    assert await one(publishing, "SHOW idle_session_timeout") == "1h"
    await listening.close()
    await publishing.close()


async def test_listen_settings_are_for_the_listener_alone(database: FreshDatabase) -> None:
    """LISTEN replaces host and options on the listening connection and leaves the other."""
    engine = PostgresEngine(
        database.settings(
            database.login(),
            HOST="127.0.0.1",
            LISTEN={"HOST": "localhost", "OPTIONS": {"application_name": "listening"}},
        )
    )
    listening = await engine.open_connection(listener=True)
    publishing = await engine.open_connection()
    assert listening.connection.info.host == "localhost"
    assert publishing.connection.info.host == "127.0.0.1"
    assert await one(listening, "SHOW application_name") == "listening"
    assert await one(publishing, "SHOW application_name") == "channels_pg_secrets"
    await listening.close()
    await publishing.close()


async def test_credentials_supply_the_login(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """User and password are the source's, and the connection carries their generation."""
    login = database.login()
    adapter.then(credentials(login))
    opened = await PostgresEngine(database.settings(), source).open_connection()
    assert await one(opened, "SELECT session_user::text") == login.user
    assert opened.generation == 1
    await opened.close()


async def test_credentials_fill_the_gaps_of_the_settings(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """Host, port and database come from the credentials where the settings have none."""
    params = {
        "host": database.server.host,
        "port": database.server.port,
        "dbname": database.name,
        "application_name": "from the store",
    }
    adapter.then(credentials(database.login(), parameters=params))
    engine = PostgresEngine({"OPTIONS": {"application_name": "from settings"}}, source)
    opened = await engine.open_connection()
    assert await one(opened, "SELECT current_database()") == database.name
    assert await one(opened, "SHOW application_name") == "from settings"
    await opened.close()


async def test_a_name_in_the_settings_goes_before_the_credentials(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """A test database's name is not overruled by a URL that names another."""
    adapter.then(credentials(database.login(), parameters={"dbname": "production"}))
    opened = await PostgresEngine(database.settings(), source).open_connection()
    assert await one(opened, "SELECT current_database()") == database.name
    await opened.close()


async def test_a_rotation_is_followed(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """After the source has something newer, new connections use it and say so."""
    old, new = database.login(), database.login()
    adapter.then(credentials(old))
    engine = PostgresEngine(database.settings(), source)
    before = await engine.open_connection()
    adapter.then(credentials(new))
    await asyncio.to_thread(source.refresh)
    after = await engine.open_connection()
    assert await one(before, "SELECT session_user::text") == old.user
    assert await one(after, "SELECT session_user::text") == new.user
    assert (before.generation, after.generation) == (1, 2)
    await before.close()
    await after.close()


async def test_a_refused_login_is_tried_again_with_what_the_store_has_now(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """When the password was changed in database and store, one opening is enough."""
    login = database.login()
    adapter.then(credentials(login))
    await asyncio.to_thread(source.get)
    adapter.then(credentials(database.set_password(login.user)))
    opened = await PostgresEngine(database.settings(), source).open_connection()
    assert opened.generation == 2
    await opened.close()


async def until_accepted(engine: PostgresEngine, seconds: float = 10.0) -> OpenedConnection:
    """Do what the layer does with LoginRejected: come back when it says so."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return await engine.open_connection()
        except LoginRejected as error:
            if asyncio.get_running_loop().time() + error.retry_after > deadline:
                raise
            await asyncio.sleep(error.retry_after)


async def test_a_refused_password_is_reported_to_the_source(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """The store is asked once more, and since it has nothing else, the refusal comes through."""
    login = database.login()
    adapter.then(Credentials(user=login.user, password="wrong"))
    with pytest.raises(LoginRejected) as caught:
        await PostgresEngine(database.settings(), source).open_connection()
    assert caught.value.sqlstate == "28P01"
    assert adapter.fetches == 2
    assert source.stats()["rejections"] == 1


async def test_a_refused_password_without_a_source_is_left_alone(database: FreshDatabase) -> None:
    """A fixed PASSWORD that is wrong is not hammered either, and comes back when it is right."""
    login = database.login()
    engine = PostgresEngine(database.settings(Login(login.user, "wrong")))
    with pytest.raises(LoginRejected):
        await engine.open_connection()
    database.set_password(login.user, "wrong")
    with pytest.raises(LoginRejected, match="password authentication failed"):
        await engine.open_connection()
    opened = await until_accepted(engine)
    await opened.close()


async def test_the_database_s_own_expiry_is_reported(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """rolvaliduntil of the role becomes the credentials' expiry."""
    login = database.login()
    database.execute(f"ALTER ROLE \"{login.user}\" VALID UNTIL '2100-01-01 00:00:00+00'")
    adapter.then(credentials(login))
    opened = await PostgresEngine(database.settings(), source).open_connection()
    assert source.get().expires_at == pytest.approx(4102444800)
    await opened.close()


async def test_a_lease_is_held_until_the_connection_is_closed(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """Each open connection counts as a hold; closing it, or failing to open it, ends that."""
    login = database.login()
    adapter.then(credentials(login, lease=Lease("lease-1", 3600.0)))
    engine = PostgresEngine(database.settings(), source)
    opened = await engine.open_connection()
    other = await engine.open_connection()
    assert source.stats()["holds"] == 2
    await opened.close()
    await opened.close()
    assert source.stats()["holds"] == 1
    await asyncio.to_thread(other.release)
    assert source.stats()["holds"] == 0
    database.execute(f'REVOKE CONNECT ON DATABASE "{database.name}" FROM "{database.runtime}"')
    with pytest.raises(psycopg.OperationalError):
        await engine.open_connection()
    assert source.stats()["holds"] == 0


def test_a_connection_is_closed_when_its_loop_is_gone(database: FreshDatabase) -> None:
    """release() works from a plain thread, after the event loop was closed."""
    engine = PostgresEngine(database.settings(database.login()))
    opened = asyncio.run(engine.open_connection())
    opened.release()
    assert opened.connection.closed


def _in_child(engine: PostgresEngine, opened: OpenedConnection, results: Any) -> None:
    opened.release()
    fresh = asyncio.run(engine.open_connection())
    results.put(fresh.connection.info.backend_pid)
    fresh.release()


# Said since Python 3.12 of every process with threads; those of other tests are none of ours.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_the_engine_and_leaves_its_parent_s_connection(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """The child opens a connection of its own; closing the inherited one does nothing."""
    adapter.then(credentials(database.login()))
    engine = PostgresEngine(database.settings(), source)
    opened = asyncio.run(engine.open_connection())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(engine, opened, results))
    child.start()
    pid = results.get(timeout=20)
    child.join(20)
    assert child.exitcode == 0
    assert pid != opened.connection.info.backend_pid
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    assert database.execute(alive, (opened.connection.info.backend_pid,)) == [(1,)]
    opened.release()


async def test_failures_carry_no_password(database: FreshDatabase) -> None:
    """Neither the exception nor any local variable in its traceback shows the password."""
    login = database.login()
    for settings in (
        database.settings(Login(login.user, "canary-wrong")),
        database.settings(Login(login.user, "canary"), HOST="127.0.0.1", PORT=1),
    ):
        with pytest.raises(psycopg.OperationalError) as caught:
            await PostgresEngine(settings).open_connection()
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        ours = [
            value
            for frame in shown.stack
            if "pg_secrets" in frame.filename and frame.filename != __file__
            for value in (frame.locals or {}).values()
        ]
        assert ours
        assert not [value for value in ours if "canary" in value]
        assert "canary" not in str(caught.value)
        assert caught.value.pgconn is None


async def test_a_missing_store_is_not_a_refused_login(database: FreshDatabase) -> None:
    """The store's error comes through as it is."""
    adapter = ScriptedAdapter(CredentialsUnavailable("vault is away"))
    away = CredentialSource(adapter, background=False, clock=FakeClock(autojump=True))
    with pytest.raises(CredentialsUnavailable, match="vault is away"):
        await PostgresEngine(database.settings(), away).open_connection()
    away.close()


async def test_configure_that_fails_closes_the_connection(database: FreshDatabase) -> None:
    """A role that cannot be assumed is an error and leaves no session behind."""
    login = database.login()
    engine = PostgresEngine(database.settings(login, OPTIONS={"assume_role": "no_such_role"}))
    with pytest.raises(psycopg.Error, match="no_such_role"):
        await engine.open_connection()
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    await eventually(lambda: database.execute(query, (login.user,)) == [(0,)])


async def eventually(condition: Any, seconds: float = 10.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came to that"
        await asyncio.sleep(0.02)


class Overriding(PostgresEngine):
    """Overrides everything there is to override on the way to a connection."""

    password = ""

    def connection_params(self) -> dict[str, Any]:
        return {**super().connection_params(), "password": self.password, "row_factory": "dropped"}

    def configure(self, connection: Any) -> None:  # type: ignore[override]
        connection.prepare_threshold = 1

    async def connect(self, **params: Any) -> Any:
        # Neither autocommit, nor classified, nor with tuples for rows.
        return await psycopg.AsyncConnection.connect(**params, row_factory=dict_row)


async def test_the_override_points(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource
) -> None:
    """connection_params, a plain configure and a connect of one's own are all used."""
    login = database.login()
    adapter.then(credentials(login))
    opened = await Overriding(database.settings(), source).open_connection()
    await opened.close()
    engine = Overriding(database.settings(Login(login.user, "not this")))
    engine.password = login.password
    opened = await engine.open_connection()
    assert opened.connection.prepare_threshold == 1
    assert opened.connection.autocommit
    await opened.close()
    engine.password = "canary"
    with pytest.raises(psycopg.OperationalError) as caught:
        await engine.open_connection()
    assert caught.value.pgconn is None


@pytest.fixture
def project(database: FreshDatabase) -> Iterator[Mapping[str, Any]]:
    """A project's own Django backend, which fetches its password itself."""
    state: dict[str, Any] = {"login": database.login(), "asked": 0, "seen": []}

    class DatabaseWrapper(postgresql.DatabaseWrapper):
        def get_connection_params(self) -> dict[str, Any]:
            state["asked"] += 1
            state["seen"].append((self.alias, dict(self.settings_dict)))
            params = super().get_connection_params()
            login = state["login"]
            return {**params, "user": login.user, "password": login.password, "own": "dropped"}

    package, module = types.ModuleType("shop"), types.ModuleType("shop.db.base")
    between = types.ModuleType("shop.db")
    package.__path__ = between.__path__ = []
    module.DatabaseWrapper = DatabaseWrapper  # type: ignore[attr-defined]
    sys.modules |= {"shop": package, "shop.db": between, "shop.db.base": module}
    yield state
    for name in ("shop", "shop.db", "shop.db.base"):
        del sys.modules[name]


async def test_a_backend_that_fetches_its_password_itself_is_asked_each_time(
    database: FreshDatabase, project: dict[str, Any]
) -> None:
    """With no CREDENTIALS and no subclass, a connection after a rotation has the new password."""
    engine = build_engine({"ENGINE": "shop.db", "SHOP_SECRET": "path", **database.settings()})
    assert isinstance(engine, PostgresEngine)
    first = await engine.open_connection()
    project["login"] = database.set_password(project["login"].user)
    second = await engine.open_connection(listener=True)
    assert project["asked"] == 2
    assert first.fingerprint != second.fingerprint
    alias, settings = project["seen"][0]
    assert alias == "default"
    assert settings["SHOP_SECRET"] == "path"
    assert settings["OPTIONS"] == {}
    assert settings["TIME_ZONE"] is None
    assert settings["TEST"]["MIRROR"] is None
    await first.close()
    await second.close()


async def test_a_backend_whose_password_was_refused_is_asked_again_at_once(
    database: FreshDatabase, project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that changed between asking and connecting costs no waiting."""
    engine = build_engine({"ENGINE": "shop.db", **database.settings()})
    assert isinstance(engine, PostgresEngine)
    stale, user = project["login"], project["login"].user
    current = database.set_password(user)
    answers = iter([stale, current])
    asked = engine.connection_params
    monkeypatch.setattr(
        engine,
        "connection_params",
        lambda: {**asked(), "password": next(answers).password},
    )
    opened = await engine.open_connection()
    assert await one(opened, "SELECT session_user::text") == user
    await opened.close()


async def test_a_backend_that_hangs_is_given_up(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that do not come in time are an outage, and the event loop is not blocked."""
    import threading

    released = threading.Event()
    monkeypatch.setattr(PostgresEngine, "open_timeout", 0.1)
    engine = PostgresEngine(database.settings(database.login()))
    monkeypatch.setattr(engine, "connection_params", lambda: released.wait(30) and {})
    with pytest.raises(psycopg.OperationalError, match=r"within 0\.1 seconds"):
        await engine.open_connection()
    released.set()


async def test_a_server_that_freezes_after_the_login_is_given_up(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that does not answer any more is no reason to wait for ever, and is closed."""
    monkeypatch.setattr(PostgresEngine, "open_timeout", 0.5)
    with FaultProxy(database.server.port) as proxy:

        class Frozen(PostgresEngine):
            async def configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
                proxy.hold_answers()
                await connection.execute("SELECT 1")

        engine = Frozen({**database.settings(database.owner), "PORT": proxy.port})
        begun = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match=r"no usable session within 0\.45"):
            await engine.open_connection()
        assert time.monotonic() - begun < 5


async def test_a_backend_with_a_new_password_each_time_does_not_hammer(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every refused password is followed by yet another, one opening tries three."""
    engine = PostgresEngine(database.settings(database.login()))
    params, asked = engine.connection_params, itertools.count(1)
    monkeypatch.setattr(
        engine, "connection_params", lambda: {**params(), "password": f"wrong-{next(asked)}"}
    )
    with pytest.raises(LoginRejected):
        await engine.open_connection()
    assert next(asked) == 4
