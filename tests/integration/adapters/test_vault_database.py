"""The vault adapter against a real Vault that makes logins on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsDenied, CredentialsNotFound
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from pg_secrets.vault import VaultAdapter


def adapter(engine: DatabaseSecretsEngine, **config: Any) -> VaultAdapter:
    auth = {"METHOD": "token", "TOKEN": engine.openbao.root_token}
    settings = {"ADDRESS": engine.openbao.address, "MOUNT": engine.mount, "AUTH": auth}
    return VaultAdapter.from_config(settings | config)


def user_of(engine: DatabaseSecretsEngine, credentials: Credentials) -> str:
    """Log in to the database with ``credentials`` and return who that is."""
    params = engine.database.connection_params() | credentials.connection_params()
    with psycopg.connect(**params) as connection:
        row = connection.execute("SELECT session_user::text").fetchone()
    assert row is not None
    return str(row[0])


def valid_until(engine: DatabaseSecretsEngine, user: str | None) -> float:
    query = "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s"
    rows = engine.database.execute(query, (user,))
    return float(rows[0][0])


def wait_for(condition: Callable[[], bool], timeout: float = 15.0) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_dynamic_login(vault_database: DatabaseSecretsEngine) -> None:
    """A dynamic role's login gets into the database and says when it ends."""
    before = time.time()
    found = adapter(vault_database, ROLE="dynamic").fetch()
    assert user_of(vault_database, found) == found.user
    assert found.lease is not None
    assert (found.lease.duration, found.lease.renewable) == (3600, True)
    assert found.expires_at is not None
    assert before + 3600 <= found.expires_at <= time.time() + 3600
    assert abs(valid_until(vault_database, found.user) - found.expires_at) < 10


def test_each_fetch_is_another_login(vault_database: DatabaseSecretsEngine) -> None:
    """Two fetches of a dynamic role are two users."""
    reader = adapter(vault_database, ROLE="dynamic")
    assert reader.fetch().user != reader.fetch().user


def test_renewal_reaches_the_database(vault_database: DatabaseSecretsEngine) -> None:
    """Renewing moves the lease's end, and the role's VALID UNTIL with it."""
    vault_database.dynamic_role("short", default_ttl="20s", max_ttl="1h")
    reader = adapter(vault_database, ROLE="short")
    first = reader.fetch()
    until = valid_until(vault_database, first.user)
    wait_for(lambda: time.time() > (first.expires_at or 0) - 18)
    renewed = reader.renew(first)
    assert renewed is not None
    assert (renewed.user, renewed.password) == (first.user, first.password)
    assert renewed.lease is not None
    assert (renewed.lease.duration, renewed.lease.renewable) == (20, True)
    assert (renewed.expires_at or 0) >= (first.expires_at or 0) + 1
    assert valid_until(vault_database, first.user) > until


def test_max_ttl_truncates_a_renewal(vault_database: DatabaseSecretsEngine) -> None:
    """Near max_ttl a renewal comes back shorter than asked, and as the last one."""
    vault_database.dynamic_role("capped", default_ttl="20s", max_ttl="20s")
    reader = adapter(vault_database, ROLE="capped")
    first = reader.fetch()
    wait_for(lambda: time.time() > (first.expires_at or 0) - 18)
    renewed = reader.renew(first)
    assert renewed is not None
    assert renewed.lease is not None
    assert renewed.lease.duration < 20
    assert not renewed.lease.renewable
    assert (renewed.expires_at or 0) < (first.expires_at or 0) + 2
    assert reader.renew(renewed) is None


def test_renewing_a_lease_that_is_gone(vault_database: DatabaseSecretsEngine) -> None:
    """A lease that the operator revoked is not renewed, and its login is refused."""
    reader = adapter(vault_database, ROLE="dynamic")
    found = reader.fetch()
    vault_database.revoke_leases("dynamic")
    assert reader.renew(found) is None
    with pytest.raises(psycopg.OperationalError):
        user_of(vault_database, found)


def test_revoked_login_is_refused(vault_database: DatabaseSecretsEngine) -> None:
    """After revoke() the login is gone from the database; revoking twice is no error."""
    reader = adapter(vault_database, ROLE="dynamic")
    found = reader.fetch()
    reader.revoke(found)
    reader.revoke(found)
    with pytest.raises(psycopg.OperationalError):
        user_of(vault_database, found)


def test_static_login_follows_a_rotation(vault_database: DatabaseSecretsEngine) -> None:
    """A rotated static role gives the same user a new password under a new version."""
    reader = adapter(vault_database, STATIC_ROLE="static")
    first = reader.fetch()
    assert user_of(vault_database, first) == first.user
    vault_database.rotate_static_role("static")
    second = reader.fetch()
    assert (second.user, second.expires_at) == (first.user, None)
    assert second.version != first.version
    assert user_of(vault_database, second) == second.user
    with pytest.raises(psycopg.OperationalError):
        user_of(vault_database, first)


@pytest.mark.long
def test_static_login_says_when_to_ask_again(vault_database: DatabaseSecretsEngine) -> None:
    """Asked again when it said, and every second after, Vault soon has the next password."""
    login = vault_database.database.login()
    vault_database.static_role("fast", login, rotation_period="5s")
    reader = adapter(vault_database, STATIC_ROLE="fast")
    first = reader.fetch()
    assert first.refresh_at is not None
    assert 0 < first.refresh_at - time.time() <= 6
    wait_for(lambda: time.time() > (first.refresh_at or 0))
    wait_for(lambda: reader.fetch().version != first.version)
    assert user_of(vault_database, reader.fetch()) == login.user


@pytest.mark.parametrize(
    "secret",
    [
        {"ROLE": "no-such"},
        {"STATIC_ROLE": "no-such"},
        {"ROLE": "dynamic", "MOUNT": "no-such-mount"},
        {"ROLE": "dynamic", "MOUNT": "secret"},
        {"KV": "dynamic", "KV_VERSION": 1},
    ],
)
def test_nothing_there(vault_database: DatabaseSecretsEngine, secret: dict[str, Any]) -> None:
    """An unknown role, mount or kind of engine is not found, by the path that was asked for."""
    with pytest.raises(CredentialsNotFound, match=r"Vault, .*check MOUNT"):
        adapter(vault_database, **secret).fetch()


def test_policy_that_denies(vault_database: DatabaseSecretsEngine) -> None:
    """A token whose policy does not cover the role is denied."""
    token = vault_database.token("creds/owner")
    reader = adapter(vault_database, ROLE="dynamic", AUTH={"METHOD": "token", "TOKEN": token})
    with pytest.raises(CredentialsDenied, match="permission denied"):
        reader.fetch()


def test_policy_without_leases(vault_database: DatabaseSecretsEngine) -> None:
    """A token that may touch no lease has renewal refused, and revocation denied by name."""
    client = vault_database.client
    path = f"{vault_database.mount}/creds/dynamic"
    rule = f'path "{path}" {{ capabilities = ["read"] }}'
    client.sys.create_or_update_policy(vault_database.mount, rule)
    answer = client.auth.token.create(policies=[vault_database.mount], no_default_policy=True)
    auth = {"METHOD": "token", "TOKEN": answer["auth"]["client_token"]}
    reader = adapter(vault_database, ROLE="dynamic", AUTH=auth)
    found = reader.fetch()
    assert reader.renew(found) is None
    with pytest.raises(CredentialsDenied, match="sys/leases/revoke"):
        reader.revoke(found)


def test_lease_of_a_short_lived_token(vault_database: DatabaseSecretsEngine) -> None:
    """A lease of an hour that hangs on a token of a minute lasts a minute."""
    token = vault_database.token("creds/dynamic", ttl="60s")
    reader = adapter(vault_database, ROLE="dynamic", AUTH={"METHOD": "token", "TOKEN": token})
    found = reader.fetch()
    assert found.lease is not None
    assert 50 < found.lease.duration < 60.1  # the difference of two times since the epoch
