"""Hunting for the password in everything that leaves pg_secrets."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
import pytest

import pg_secrets
import pg_secrets.asyncpg
from pg_secrets import (
    CredentialEvent,
    Credentials,
    CredentialsError,
    CredentialSource,
    CredentialsUnavailable,
    Lease,
    aconnect,
    connect,
    credential_source,
    pool_kwargs,
    registry,
)
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.canary import Hunt
from pg_secrets.testing.database import FreshDatabase

pytestmark = pytest.mark.usefixtures("in_no_log")


@pytest.fixture
def canary_login(hunt: Hunt, database: FreshDatabase) -> Credentials:
    """A login that exists, whose password is the canary."""
    return database.credentials(database.login(password=hunt.password()))


def run(*args: Any, **params: Any) -> None:
    with connect(*args, **params) as connection:
        connection.execute("SELECT 1")


def run_on_a_loop(*args: Any, **params: Any) -> None:
    async def whole() -> None:
        async with await aconnect(*args, **params) as connection:
            await connection.execute("SELECT 1")

    asyncio.run(whole())


def run_in_a_pool(*args: Any, **params: Any) -> None:
    # This kind connects in its client's thread, and so its errors carry its frames to the client.
    kwargs = pool_kwargs(*args, **params)
    with (
        psycopg_pool.NullConnectionPool(**kwargs, open=True) as pool,
        pool.connection(timeout=5.0) as connection,
    ):
        connection.execute("SELECT 1")


def run_in_a_pool_on_a_loop(*args: Any, **params: Any) -> None:
    async def whole() -> None:
        pool = psycopg_pool.AsyncNullConnectionPool(**pool_kwargs(*args, **params), open=False)
        async with pool, pool.connection(timeout=5.0) as connection:
            await connection.execute("SELECT 1")

    asyncio.run(whole())


WAYS = {
    "sync": run,
    "async": run_on_a_loop,
    "pool": run_in_a_pool,
    "async pool": run_in_a_pool_on_a_loop,
}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def log_in(request: pytest.FixtureRequest) -> Callable[..., None]:
    either: Callable[..., None] = request.param
    return either


def test_no_object_shows_it(hunt: Hunt, canary_login: Credentials) -> None:
    """Credentials, sources, adapters, holds, events, stats and keyword arguments hide it."""
    lease = Lease(id="lease", duration=3600.0, renewable=True)
    adapter = ScriptedAdapter(canary_login.replace(lease=lease), renewals=[None])
    source = CredentialSource(adapter, background=False)
    events: list[CredentialEvent] = []
    source.subscribe(events.append)
    hold = source.hold(source.get())
    source.rejected(source.get(), "28P01")
    source.get()
    kwargs = pool_kwargs(source, password=hunt.password())
    for thing in (source.get(), source.get().lease, adapter, source, hold, source.gate, kwargs):
        hunt.in_object(thing)
    hunt.in_text("stats", json.dumps(source.stats()))
    assert len(events) >= 3
    for event in events:
        hunt.in_object(event)
    hold.release()
    source.close()
    assert hunt.looked > 10


def broken(config: Mapping[str, Any]) -> ScriptedAdapter:
    password = config["PASSWORD"]
    raise KeyError(password)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an adapter that takes a password as an option."""
    adapters = {"canary-test": ScriptedAdapter, "broken": broken}
    monkeypatch.setattr(registry, "_adapters", adapters)
    monkeypatch.setattr(registry, "_sources", {})
    return "canary-test"


def test_no_registry_key_shows_it(hunt: Hunt, registered: str) -> None:
    """A password among an adapter's options does not show in the registry."""
    source = credential_source({"ADAPTER": registered, "PASSWORD": hunt.password()})
    assert source.get().password == hunt.password()
    hunt.in_text("the registry", repr(registry._sources))
    source.close()


WRONG: list[dict[str, Any]] = [
    {"USR": "app"},
    {"USER": 7},
    {"TTL": "soon"},
    {"ADAPTER": "none"},
    {"ADAPTER": None},
    {"ADAPTER": "broken"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_refused_settings_show_nothing(hunt: Hunt, registered: str, wrong: dict[str, Any]) -> None:
    """Settings that are refused do not leave with the refusal, whatever is wrong with them."""
    with pytest.raises(CredentialsError) as caught:
        credential_source({"ADAPTER": registered, "PASSWORD": hunt.password(), **wrong})
    hunt.in_exception(caught.value)


def test_succeeding_connects_show_nothing(
    hunt: Hunt, canary_login: Credentials, log_in: Callable[..., None]
) -> None:
    """A login that works leaves no trace of the password in any log."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    log_in(source)
    source.close()


FAILURES: list[dict[str, Any]] = [
    {"dbname": "no_such_database"},
    {"port": 1},
    {"host": "127.0.0.1,127.0.0.1", "port": "1,2"},
    {"connect_timeout": "canary", "port": 1},  # pools put a number of their own over it
    {"hots": "x"},
    {"conninfo": "host=x password=y z"},
    {"sslmode": "require"},
    {"autocommit": True, "port": 1},
]


@pytest.mark.parametrize("params", FAILURES, ids=[next(iter(params)) for params in FAILURES])
def test_failing_connects_show_nothing(
    hunt: Hunt, canary_login: Credentials, log_in: Callable[..., None], params: dict[str, Any]
) -> None:
    """Whatever makes a connect fail, neither the error nor its frames have the password."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    # Pools refuse at once what no connection takes.
    with pytest.raises((psycopg.Error, TypeError)) as caught:
        log_in(source, **params)
    hunt.in_exception(caught.value)
    source.close()


def test_what_a_pool_refuses_shows_nothing(hunt: Hunt, canary_login: Credentials) -> None:
    """A password beside a setting that is refused is not in the frames of the refusal."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)

    def refused() -> BaseException:
        try:
            pool_kwargs(source, password=hunt.password(), max_size=3)
        except TypeError as error:
            return error
        raise AssertionError("it was taken")

    hunt.in_exception(refused())
    source.close()


def test_rejected_logins_show_nothing(
    hunt: Hunt, canary_login: Credentials, database: FreshDatabase, log_in: Callable[..., None]
) -> None:
    """A password that the server refuses is not in the refusal."""
    assert canary_login.user is not None
    database.set_password(canary_login.user)
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    with pytest.raises(pg_secrets.LoginRejected) as caught:
        log_in(source, rejection_timeout=0.0)
    hunt.in_exception(caught.value)
    hunt.in_object(caught.value)
    source.close()


async def test_cancelled_connects_show_nothing(hunt: Hunt, canary_login: Credentials) -> None:
    """A connect that is cancelled half-way carries no frame with the password out."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    await source.aget()
    cancelled = 0
    for turns in range(1, 6):
        task = asyncio.ensure_future(aconnect(source))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            # psycopg waits with wait_for, which before Python 3.12 may swallow it.
            await (await task).close()
        except asyncio.CancelledError as error:
            hunt.in_exception(error)
            cancelled += 1
    assert cancelled
    source.close()


ASYNCPG_FAILURES: list[dict[str, Any]] = [
    {"database": "no_such_database"},
    {"port": 1},
    {"ssl": "require"},
    {"dsn": "mysql://"},
    {"server_settings": {"no_such_setting": "x"}},
    {"hots": "x"},
]


@pytest.mark.parametrize("params", ASYNCPG_FAILURES, ids=[next(iter(p)) for p in ASYNCPG_FAILURES])
async def test_failing_connects_of_asyncpg_show_nothing(
    hunt: Hunt, canary_login: Credentials, params: dict[str, Any]
) -> None:
    """Whatever makes asyncpg's connect fail, neither the error nor its frames have the password."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    with pytest.raises((asyncpg.PostgresError, OSError, ValueError, TypeError)) as caught:
        await pg_secrets.asyncpg.connect(source, **params)
    hunt.in_exception(caught.value)
    source.close()


async def test_rejected_logins_of_asyncpg_show_nothing(
    hunt: Hunt, canary_login: Credentials, database: FreshDatabase
) -> None:
    """A password that the server refuses to asyncpg is not in the refusal."""
    assert canary_login.user is not None
    database.set_password(canary_login.user)
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    with pytest.raises(pg_secrets.LoginRejected) as caught:
        await pg_secrets.asyncpg.connect(source, rejection_timeout=0.0)
    hunt.in_exception(caught.value)
    hunt.in_object(caught.value)
    source.close()


async def test_cancelled_connects_of_asyncpg_show_nothing(
    hunt: Hunt, canary_login: Credentials
) -> None:
    """A connect of asyncpg that is cancelled half-way carries no frame with the password out."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    await source.aget()
    cancelled = 0
    for turns in range(1, 6):
        task = asyncio.ensure_future(pg_secrets.asyncpg.connect(source))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        hunt.in_exception(caught.value)
        cancelled += 1
    assert cancelled
    assert source.stats()["holds"] == 0
    source.close()


class Careless(ScriptedAdapter):
    """An adapter whose frames and foreign errors are full of secrets."""

    def __init__(self, secret: Callable[[], str], error: type[Exception]) -> None:
        super().__init__()
        self._secret, self._error = secret, error

    def fetch(self) -> Credentials:
        token = self._secret()
        try:
            raise KeyError(token)
        except KeyError:
            raise self._error("the store said no") from OSError(len(token))


@pytest.mark.parametrize("error", [CredentialsUnavailable, CredentialsError, RuntimeError])
def test_failing_fetches_show_nothing(hunt: Hunt, error: type[Exception]) -> None:
    """The frames of an adapter, in which secrets lie about, are not carried out by its errors."""
    source = CredentialSource(Careless(hunt.password, error), background=False)
    events: list[CredentialEvent] = []
    source.subscribe(events.append)
    for ask in (source.get, source.refresh):
        with pytest.raises(CredentialsError) as caught:
            ask(timeout=0.5)
        hunt.in_exception(caught.value)
    hunt.in_text("stats", json.dumps(source.stats()))
    for event in events:
        if event.error is not None:
            hunt.in_exception(event.error)
    source.close()


def test_nothing_lies_about_after_a_failure(
    hunt: Hunt, canary_login: Credentials, log_in: Callable[..., None]
) -> None:
    """After a failed connect no driver's frame or error is left for the garbage collector."""
    source = CredentialSource(ScriptedAdapter(canary_login), background=False)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(psycopg.OperationalError):
            log_in(source, port=1)
        # isinstance() would ask a lazy object of Django's for its class, and so set it up.
        left = [thing for thing in gc.get_objects() if issubclass(type(thing), psycopg.Error)]
        for error in left:
            hunt.in_exception(error)
    finally:
        gc.enable()
    source.close()
