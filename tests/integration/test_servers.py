"""The servers the other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import ServerNotStarted
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

OWNER = """
import signal, sys, time
# A shell starts what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.postgres import PostgresServer
postgres, openbao = PostgresServer(), OpenBaoServer()
postgres.start(); openbao.start()
print(postgres._process.pid, openbao.pid, postgres.directory, openbao.directory, flush=True)
time.sleep(60)
"""


def test_wrong_password_is_refused(database: FreshDatabase) -> None:
    """No login gets in over TCP without its password."""
    params = database.connection_params() | {"password": "not-the-password"}
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**params)


def test_owner_may_create_tables_and_runtime_may_not(database: FreshDatabase) -> None:
    """The owner's login can create a table, a runtime login cannot."""
    statement = "CREATE TABLE things (id int)"
    with psycopg.connect(**database.connection_params()) as connection:
        connection.execute(statement)
    with (
        psycopg.connect(**database.connection_params(database.login())) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE TABLE others (id int)")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_port_and_tables(postgres_server: PostgresServer, mode: str) -> None:
    """A restart of either kind comes back on the same port with the same data."""
    port = postgres_server.port
    with FreshDatabase(postgres_server) as fresh:
        fresh.execute("CREATE TABLE things (id int)")
        postgres_server.restart(mode)  # type: ignore[arg-type]
        assert fresh.execute("SELECT count(*) FROM things") == [(0,)]
    assert postgres_server.port == port


def test_rows_without_columns_are_rows(postgres_server: PostgresServer) -> None:
    """A query that selects nothing but rows says how many there are."""
    assert postgres_server.execute("SELECT FROM generate_series(1, 2)") == [(), ()]
    assert postgres_server.execute("SELECT FROM generate_series(1, 0)") == []
    assert postgres_server.execute("SET application_name = 'test'") == []


def test_settings_are_the_servers() -> None:
    """A setting given to the constructor is in force in the server."""
    with PostgresServer(settings={"max_connections": "17"}) as server:
        assert server.execute("SHOW max_connections") == [("17",)]


def test_leaving_removes_the_directory() -> None:
    """Nothing of the cluster is left on disk when its block ends."""
    with PostgresServer() as server:
        directory = server.directory
        assert (directory / "data").is_dir()
    assert not directory.exists()


def test_directory_that_was_there_is_kept() -> None:
    """A directory given to the server, unlike one it made, outlives it with its data."""
    with tempfile.TemporaryDirectory(prefix="pg_secrets-kept-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with PostgresServer(directory) as server:
            server.execute("CREATE TABLE things (id int)")
        first_data = (directory / "data" / "PG_VERSION").stat().st_ino
        with PostgresServer(directory) as server:
            assert server.running
        assert (directory / "data" / "PG_VERSION").stat().st_ino == first_data


def test_taken_port_is_reported() -> None:
    """A port that is taken is reported with the server's own words, not waited for."""
    with PostgresServer() as first:
        second = PostgresServer(port=first.port)
        with pytest.raises(ServerNotStarted, match="Address already in use"):
            second.start()
        assert not second.directory.exists()


def test_dropping_removes_roles(postgres_server: PostgresServer) -> None:
    """No role of a fresh database survives it."""
    with FreshDatabase(postgres_server) as fresh:
        fresh.login()
    query = "SELECT count(*) FROM pg_roles WHERE rolname LIKE %s"
    assert postgres_server.execute(query, (f"{fresh.name}%",)) == [(0,)]


def test_dynamic_login_works_until_revoked(vault_database: DatabaseSecretsEngine) -> None:
    """A login from Vault gets in, and its session ends when its lease is revoked."""
    database = vault_database.database
    login = vault_database.login("dynamic")
    with psycopg.connect(**database.connection_params(login), autocommit=True) as connection:
        vault_database.revoke_leases("dynamic")
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT pg_sleep(10)")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**database.connection_params(login))


def test_static_login_changes_password(vault_database: DatabaseSecretsEngine) -> None:
    """Rotating a static role keeps the user and replaces the password in the database."""
    old = vault_database.static_login("static")
    vault_database.rotate_static_role("static")
    new = vault_database.static_login("static")
    database = vault_database.database
    assert (new.user, new.password != old.password) == (old.user, True)
    psycopg.connect(**database.connection_params(new)).close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**database.connection_params(old))


def test_token_may_read_only_its_path(vault_database: DatabaseSecretsEngine) -> None:
    """A token made for one role is denied another role's credentials."""
    import hvac.exceptions

    client = vault_database.openbao.client(vault_database.token("creds/dynamic"))
    try:
        assert client.read(f"{vault_database.mount}/creds/dynamic")["data"]["username"]
        with pytest.raises(hvac.exceptions.Forbidden):
            client.read(f"{vault_database.mount}/creds/owner")
    finally:
        client.adapter.close()


def test_openbao_stops_and_starts_empty() -> None:
    """A restarted development Vault has forgotten its mounts."""
    with OpenBaoServer() as server:
        client = server.client()
        client.sys.enable_secrets_engine("kv", path="things")
        server.stop()
        assert not server.running
        server.start()
        assert "things/" not in client.sys.list_mounted_secrets_engines()["data"]
        client.adapter.close()


@pytest.mark.parametrize(
    "ending",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_servers_do_not_outlive_their_owner(ending: signal.Signals) -> None:
    """Whatever ends the owning process, both servers and their directories are gone soon after."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        postgres, openbao, *directories = owner.stdout.readline().split()
        owner.send_signal(ending)
        owner.wait(10)
    left = {Path(name) for name in [*directories, f"/proc/{postgres}", f"/proc/{openbao}"]}
    deadline = time.monotonic() + 15
    while left and time.monotonic() < deadline:
        left = {path for path in left if _there(path)}
        time.sleep(0.05)
    assert not left


def _there(path: Path) -> bool:
    """Say whether a directory exists, or a process does and is no zombie."""
    if path.parent != Path("/proc"):
        return path.exists()
    try:
        return " Z " not in (path / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_missing_binaries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PG_BIN that holds no server is reported with its value."""
    monkeypatch.setitem(os.environ, "PG_BIN", str(tmp_path))
    with pytest.raises(ServerNotStarted, match=str(tmp_path)):
        PostgresServer()
