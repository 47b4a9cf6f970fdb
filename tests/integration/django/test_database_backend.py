"""``ENGINE = "channels_pg_secrets.db.postgresql"`` on a real server."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import DatabaseError, OperationalError, connections
from django.db.utils import ConnectionHandler

from channels_pg_secrets.db.postgresql.base import DatabaseWrapper
from channels_pg_secrets.errors import DatabaseMisconfigured
from pg_secrets.connect import LoginRejected
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import CredentialsDenied, CredentialsUnavailable
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.database import FreshDatabase, Login

Connect = Callable[..., DatabaseWrapper]


@pytest.fixture
def adapter() -> ScriptedAdapter:
    return ScriptedAdapter()


@pytest.fixture
def source(adapter: ScriptedAdapter) -> Iterator[CredentialSource]:
    source = CredentialSource(adapter, background=False)
    yield source
    source.close()


@pytest.fixture
def connect(database: FreshDatabase, source: CredentialSource) -> Iterator[Connect]:
    """Makes Django's connection object for an alias, as ``django.db.connections`` would."""
    made: list[DatabaseWrapper] = []

    def make(**settings: Any) -> DatabaseWrapper:
        alias = {
            "ENGINE": "channels_pg_secrets.db.postgresql",
            "CONN_MAX_AGE": None,
            "CREDENTIALS": source,
            **database.settings(),
            **settings,
        }
        wrapper = ConnectionHandler({"default": alias})["default"]
        assert isinstance(wrapper, DatabaseWrapper)
        made.append(wrapper)
        return wrapper

    yield make
    for wrapper in made:
        wrapper.inc_thread_sharing()
        wrapper.close()


def credentials(login: Login, **more: Any) -> Credentials:
    return Credentials(user=login.user, password=login.password, **more)


def one(wrapper: DatabaseWrapper, query: str) -> Any:
    with wrapper.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def test_the_login_is_the_source_s(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """Without USER and PASSWORD in the settings, queries run as whoever the source names."""
    login = database.login()
    adapter.then(credentials(login))
    assert one(connect(), "SELECT session_user::text") == login.user


def test_a_rotation_is_followed_between_requests(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """A persistent connection is kept until the request ends, and replaced for the next."""
    old, new = database.login(), database.login()
    adapter.then(credentials(old))
    wrapper = connect()
    assert one(wrapper, "SELECT session_user::text") == old.user
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.connection is not None
    adapter.then(credentials(new))
    source.refresh()
    assert one(wrapper, "SELECT session_user::text") == old.user
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.connection is None
    assert one(wrapper, "SELECT session_user::text") == new.user


def test_a_password_changed_in_database_and_store_costs_one_retry(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """A login that was refused is repeated with what the store has now; the query succeeds."""
    login = database.login()
    adapter.then(credentials(login))
    source.get()
    adapter.then(credentials(database.set_password(login.user)))
    assert one(connect(), "SELECT session_user::text") == login.user
    assert source.generation == 2


def test_a_wrong_password_is_an_operational_error_within_the_budget(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """Django gets its own OperationalError with the refusal as cause, and no password in it."""
    login = database.login()
    adapter.then(Credentials(user=login.user, password="canary"))
    wrapper = connect()
    wrapper.login_budget = 0.5  # type: ignore[misc]
    with pytest.raises(OperationalError) as caught:
        wrapper.ensure_connection()
    assert isinstance(caught.value.__cause__, LoginRejected)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__.pgconn is None


def test_a_store_that_is_away_is_an_operational_error(connect: Connect) -> None:
    """Whoever handles an unreachable database handles an unreachable store as well."""
    adapter = ScriptedAdapter(CredentialsUnavailable("vault is away"))
    away = CredentialSource(adapter, background=False, clock=FakeClock(autojump=True))
    with pytest.raises(OperationalError, match="vault is away"):
        connect(CREDENTIALS=away).ensure_connection()
    away.close()


def test_a_store_that_refuses_says_so(adapter: ScriptedAdapter, connect: Connect) -> None:
    """What a person has to mend is not disguised as an outage."""
    adapter.then(CredentialsDenied("no policy for this role"))
    with pytest.raises(CredentialsDenied, match="no policy"):
        connect().ensure_connection()


def test_a_dropped_role_is_noticed_after_an_error(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """Once the role is gone, the session is not reused and the source is told."""
    gone, new = database.login(), database.login()
    adapter.then(credentials(gone))
    wrapper = connect()
    one(wrapper, "SELECT 1")
    database.server.execute(f'DROP ROLE "{gone.user}"')
    adapter.then(credentials(new))
    with pytest.raises(DatabaseError):
        one(wrapper, "SELECT session_user")
    assert one(wrapper, "SELECT 1") == 1
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.connection is None
    assert one(wrapper, "SELECT session_user::text") == new.user


def test_a_terminated_session_is_replaced(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """After pg_terminate_backend the next request has a connection again."""
    login = database.login()
    adapter.then(credentials(login))
    wrapper = connect()
    one(wrapper, "SELECT 1")
    assert database.terminate(login.user) == 1
    with pytest.raises(OperationalError):
        one(wrapper, "SELECT 1")
    wrapper.close_if_unusable_or_obsolete()
    assert one(wrapper, "SELECT 1") == 1


def test_a_transaction_is_not_cut_by_a_rotation(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """Inside an atomic block that wraps everything, as in a TestCase, the connection stays."""
    from django.db import transaction

    adapter.then(credentials(database.login()))
    wrapper = connect(AUTOCOMMIT=True)
    connections["rotating"] = wrapper
    try:
        with transaction.atomic(using="rotating"):
            before = one(wrapper, "SELECT pg_backend_pid()")
            adapter.then(credentials(database.login()))
            source.refresh()
            assert one(wrapper, "SELECT pg_backend_pid()") == before
        assert one(wrapper, "SELECT pg_backend_pid()") == before
    finally:
        wrapper.close()
        del connections["rotating"]


def test_a_lease_is_held_until_the_connection_goes(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """Closing a connection gives up the hold, and so does a thread that ends without closing."""
    adapter.then(credentials(database.login(), lease=Lease("lease-1", 3600.0)))
    wrapper = connect()
    one(wrapper, "SELECT 1")
    assert source.stats()["holds"] == 1
    wrapper.close()
    assert source.stats()["holds"] == 0

    def work() -> None:
        other = connect()
        one(other, "SELECT 1")
        # Quietly, as the interpreter does when it takes a thread's locals down.
        other.connection.pgconn.finish()
        other.connection = None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert source.stats()["holds"] == 0


def test_the_database_s_own_expiry_is_reported(
    database: FreshDatabase, adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """rolvaliduntil of the role becomes the credentials' expiry, and the session is unharmed."""
    login = database.login()
    database.execute(f"ALTER ROLE \"{login.user}\" VALID UNTIL '2100-01-01 00:00:00+00'")
    adapter.then(credentials(login))
    wrapper = connect()
    assert one(wrapper, "SELECT 1") == 1
    assert source.get().expires_at == pytest.approx(4102444800)
    assert wrapper.connection.autocommit


def test_the_database_s_name_may_come_with_the_credentials(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """Without NAME the credentials' is used; with NAME it is not."""
    params = {"dbname": database.name}
    adapter.then(credentials(database.login(), parameters=params))
    assert one(connect(NAME=""), "SELECT current_database()") == database.name
    adapter.then(credentials(database.login(), parameters={"dbname": "production"}))
    assert one(connect(), "SELECT current_database()") == database.name


def test_django_s_pool_is_refused(adapter: ScriptedAdapter, connect: Connect) -> None:
    """A pool would keep the first credentials for ever; nothing is asked or opened."""
    with pytest.raises(DatabaseMisconfigured, match="pool"):
        connect(OPTIONS={"pool": True}, CONN_MAX_AGE=0).ensure_connection()
    assert adapter.fetches == 0


def test_missing_credentials_are_named(connect: Connect, database: FreshDatabase) -> None:
    """An alias with this ENGINE and without CREDENTIALS says so."""
    alias = {"ENGINE": "channels_pg_secrets.db.postgresql", **database.settings()}
    with pytest.raises(DatabaseMisconfigured, match="has no CREDENTIALS"):
        ConnectionHandler({"default": alias})["default"].ensure_connection()


def test_dbshell_gets_the_login(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """psql is called with the source's user, and the password is in its environment alone."""
    login = database.login()
    adapter.then(credentials(login))
    wrapper = connect()
    args, env = wrapper.client.settings_to_cmd_args_env(wrapper.settings_dict, [])
    assert args[args.index("-U") + 1] == login.user
    assert login.password not in args
    assert env == {"PGPASSWORD": login.password}


def test_migrate_as_the_assumed_owner(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """A short-lived login migrates, and what it makes belongs to the role of assume_role."""
    login = database.login()
    database.execute(f'GRANT "{database.owner.user}" TO "{login.user}"')
    adapter.then(credentials(login))
    wrapper = connect(OPTIONS={"assume_role": database.owner.user})
    connections.settings["migrated"] = wrapper.settings_dict
    wrapper.alias = "migrated"
    connections["migrated"] = wrapper
    try:
        call_command("migrate", "channels_pg_secrets", database="migrated", verbosity=0)
        call_command("migrate", "channels_pg_secrets", "zero", database="migrated", verbosity=0)
        call_command("migrate", "channels_pg_secrets", database="migrated", verbosity=0)
    finally:
        wrapper.close()
        del connections["migrated"], connections.settings["migrated"]
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'channels_pg_secrets%'"
    assert database.execute(owners) == [(database.owner.user,)]


def test_the_test_runner_makes_and_drops_its_database(
    database: FreshDatabase, adapter: ScriptedAdapter, connect: Connect
) -> None:
    """create_test_db() works, and never touches the database the credentials name."""
    owner = database.login()
    database.server.execute(f'ALTER ROLE "{owner.user}" CREATEDB')
    adapter.then(credentials(owner, parameters={"dbname": database.name}))
    wrapper = connect()
    connections.settings["tested"] = wrapper.settings_dict
    wrapper.alias = "tested"
    connections["tested"] = wrapper
    try:
        wrapper.settings_dict["TEST"]["MIGRATE"] = False
        name = wrapper.creation.create_test_db(verbosity=0, autoclobber=True)
        assert one(wrapper, "SELECT current_database()") == name != database.name
        wrapper.creation.destroy_test_db(database.name, verbosity=0)
    finally:
        wrapper.close()
        del connections["tested"], connections.settings["tested"]
    assert database.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)) == []


def test_credentials_of_none_mean_a_fixed_login(
    database: FreshDatabase, connect: Connect, adapter: ScriptedAdapter
) -> None:
    """CREDENTIALS = None uses USER and PASSWORD, and asks no store."""
    login = database.login()
    wrapper = connect(CREDENTIALS=None, USER=login.user, PASSWORD=login.password)
    assert one(wrapper, "SELECT session_user::text") == login.user
    wrapper.close_if_unusable_or_obsolete()
    assert wrapper.is_usable()
    assert adapter.fetches == 0


def test_an_outage_is_not_reported_as_a_refusal(
    adapter: ScriptedAdapter, source: CredentialSource, connect: Connect
) -> None:
    """A server that cannot be reached leaves the credentials alone."""
    with pytest.raises(OperationalError) as caught:
        connect(HOST="127.0.0.1", PORT=1).ensure_connection()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert not isinstance(caught.value.__cause__, LoginRejected)
    assert source.stats()["rejections"] == 0
