"""Getting into a real Vault: AppRole, tokens, their ends and their renewals."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest

from pg_secrets.errors import CredentialsDenied
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from pg_secrets.vault import VaultAdapter

AppRole = Callable[..., dict[str, Any]]


def adapter(engine: DatabaseSecretsEngine, auth: dict[str, Any], **config: Any) -> VaultAdapter:
    settings = {"ADDRESS": engine.openbao.address, "MOUNT": engine.mount, "AUTH": auth}
    return VaultAdapter.from_config(settings | {"ROLE": "dynamic"} | config)


def accessors(engine: DatabaseSecretsEngine) -> set[str]:
    return set(engine.client.auth.token.list_accessors()["data"]["keys"])


def test_approle(vault_database: DatabaseSecretsEngine, approle: AppRole) -> None:
    """AppRole logs in once for several fetches."""
    reader = adapter(vault_database, approle())
    before = accessors(vault_database)
    assert reader.fetch().user != reader.fetch().user
    assert len(accessors(vault_database) - before) == 1
    reader.close()


def test_close_revokes_the_token_and_its_logins(
    vault_database: DatabaseSecretsEngine, approle: AppRole
) -> None:
    """After close() the token that was logged in for is gone, and soon so is the login it got."""
    before = accessors(vault_database)
    reader = adapter(vault_database, approle())
    found = reader.fetch()
    reader.close()
    assert accessors(vault_database) == before
    query = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
    deadline = time.monotonic() + 10
    # Vault revokes a token's leases in the background.
    while vault_database.database.execute(query, (found.user,)) != [(0,)]:
        assert time.monotonic() < deadline, "the login is still there"
        time.sleep(0.02)


def test_token_that_was_revoked_is_replaced(
    vault_database: DatabaseSecretsEngine, approle: AppRole
) -> None:
    """When Vault has forgotten the token, the next fetch logs in again and succeeds."""
    before = accessors(vault_database)
    reader = adapter(vault_database, approle())
    first = reader.fetch()
    (accessor,) = accessors(vault_database) - before
    vault_database.client.auth.token.revoke_accessor(accessor)
    assert reader.fetch().user != first.user
    reader.close()


def test_policy_is_asked_twice_and_leaves_no_tokens(
    vault_database: DatabaseSecretsEngine, approle: AppRole
) -> None:
    """A role that AppRole may not read is denied, and the tokens tried do not pile up."""
    auth = approle()
    reader = adapter(vault_database, auth, MOUNT="elsewhere", KV="x", ROLE=None)
    before = accessors(vault_database)
    for _ in range(3):
        with pytest.raises(CredentialsDenied, match="permission denied"):
            reader.fetch()
    assert len(accessors(vault_database) - before) == 1
    reader.close()


def test_wrong_secret_id(vault_database: DatabaseSecretsEngine, approle: AppRole) -> None:
    """A wrong secret id is denied, in Vault's words and without the id."""
    auth = approle() | {"SECRET_ID": "canary-secret-id"}
    with pytest.raises(CredentialsDenied, match="invalid role or secret ID") as caught:
        adapter(vault_database, auth).fetch()
    assert "canary" not in str(caught.value)


def test_wrong_auth_mount(vault_database: DatabaseSecretsEngine, approle: AppRole) -> None:
    """An AppRole mount that is not there is a denial that names it and MOUNT."""
    with pytest.raises(CredentialsDenied, match=r"auth/nowhere.*MOUNT"):
        adapter(vault_database, approle() | {"MOUNT": "nowhere"}).fetch()


def test_wrong_token(vault_database: DatabaseSecretsEngine) -> None:
    """A token that Vault does not know is denied without being shown."""
    auth = {"METHOD": "token", "TOKEN": "canary-token"}
    with pytest.raises(CredentialsDenied, match="permission denied") as caught:
        adapter(vault_database, auth).fetch()
    assert "canary" not in str(caught.value)


class Later:
    """A clock that runs ahead, so that a token is due without waiting for it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def test_periodic_token_is_renewed(vault_database: DatabaseSecretsEngine) -> None:
    """At 70 % of its life a renewable token is renewed, as its accessor's TTL shows."""
    token = vault_database.token("creds/dynamic", period="1h")
    client = vault_database.openbao.client(token)
    clock = Later()
    settings = {"ADDRESS": vault_database.openbao.address, "MOUNT": vault_database.mount}
    auth = {"METHOD": "token", "TOKEN": token}
    reader = VaultAdapter.from_config(settings | {"ROLE": "dynamic", "AUTH": auth}, clock=clock)
    reader.fetch()
    assert client.auth.token.lookup_self()["data"].get("last_renewal") is None
    clock.ahead = 0.7 * 3600
    reader.fetch()
    assert client.auth.token.lookup_self()["data"].get("last_renewal") is not None
    client.adapter.close()


def test_token_at_its_end_is_replaced_by_a_login(
    vault_database: DatabaseSecretsEngine, approle: AppRole
) -> None:
    """A token that max_ttl keeps from being renewed is replaced before it ends."""
    clock = Later()
    auth = approle(token_ttl="1h", token_max_ttl="1h")
    settings = {"ADDRESS": vault_database.openbao.address, "MOUNT": vault_database.mount}
    config = settings | {"STATIC_ROLE": "static", "AUTH": auth}
    reader = VaultAdapter.from_config(config, clock=clock)
    before = accessors(vault_database)
    reader.fetch()
    first = accessors(vault_database) - before
    clock.ahead = 3600.0
    reader.fetch()
    assert len(accessors(vault_database) - before - first) == 1
    reader.close()


def test_batch_token(vault_database: DatabaseSecretsEngine, approle: AppRole) -> None:
    """A login that gives batch tokens: another at 70 % of its life, and its lease bound to it."""
    clock = Later()
    auth = approle(token_type="batch", token_ttl="1h")
    reader = VaultAdapter.from_config(
        {
            "ADDRESS": vault_database.openbao.address,
            "MOUNT": vault_database.mount,
            "ROLE": "dynamic",
            "AUTH": auth,
        },
        clock=clock,
    )
    before = accessors(vault_database)
    first = reader.fetch()
    assert first.lease is not None
    assert first.lease.duration <= 3600
    clock.ahead = 0.7 * 3600
    second = reader.fetch()
    assert (second.expires_at or 0) - (first.expires_at or 0) > 0.6 * 3600
    reader.close()
    assert accessors(vault_database) == before  # batch tokens have none


def test_lease_of_a_batch_token_ends_with_it(
    vault_database: DatabaseSecretsEngine, approle: AppRole
) -> None:
    """Vault takes the login away when the batch token ends, which is when we say it does."""
    reader = adapter(vault_database, approle(token_type="batch", token_ttl="3s"))
    found = reader.fetch()
    assert found.expires_at is not None
    assert found.expires_at <= time.time() + 3
    query = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
    deadline = found.expires_at + 10
    while vault_database.database.execute(query, (found.user,)) != [(0,)]:
        assert time.time() < deadline, "the login outlived its token"
        time.sleep(0.02)
    reader.close()


def test_exceptions_of_hvac_stay_inside(vault_database: DatabaseSecretsEngine) -> None:
    """No error of the adapter is, or carries, one of hvac's."""
    auth = {"METHOD": "token", "TOKEN": "wrong"}
    with pytest.raises(CredentialsDenied) as caught:
        adapter(vault_database, auth).fetch()
    assert not isinstance(caught.value, (Forbidden, InvalidPath, InvalidRequest))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
