"""What the kinds of secret make of a Vault's answers."""

from __future__ import annotations

from typing import Any

import pytest

from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsDenied, CredentialsUnavailable
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.vault import VaultAdapter

CREDS = "/v1/database/creds/app"
STATIC = "/v1/database/static-creds/app"
RENEW = "/v1/sys/leases/renew"
REVOKE = "/v1/sys/leases/revoke"


def leased(duration: int, *, renewable: bool = True, **more: Any) -> HttpAnswer:
    body = {"lease_id": "lease/1", "lease_duration": duration, "renewable": renewable}
    return HttpAnswer(body=body | {"data": {"username": "u", "password": "pw"}} | more)


def adapter(vault: ScriptedHttpServer, clock: FakeClock, **config: Any) -> VaultAdapter:
    auth = {"METHOD": "token", "TOKEN": "given"}
    settings = {"ADDRESS": vault.address, "AUTH": auth, **config}
    return VaultAdapter.from_config(settings, clock=clock.time)


@pytest.fixture
def dynamic(vault: ScriptedHttpServer, clock: FakeClock) -> VaultAdapter:
    vault.script("GET", CREDS, leased(60))
    return adapter(vault, clock, ROLE="app")


def test_expiry_counts_from_before_the_request(vault: ScriptedHttpServer) -> None:
    """Time spent on the way to Vault and back is taken off the lease."""
    ticks = iter(range(100, 1000, 5))
    vault.script("GET", CREDS, leased(60))
    auth = {"METHOD": "token", "TOKEN": "given"}
    config = {"ADDRESS": vault.address, "AUTH": auth, "ROLE": "app"}
    found = VaultAdapter.from_config(config, clock=lambda: float(next(ticks))).fetch()
    assert found.expires_at == 160  # the first tick, though several went by


def test_full_renewal(dynamic: VaultAdapter, vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A renewal granted in full keeps the login and moves its expiry."""
    first = dynamic.fetch()
    vault.script("PUT", RENEW, leased(60))
    clock.advance(40)
    renewed = dynamic.renew(first)
    assert renewed is not None
    assert renewed.fingerprint == first.fingerprint
    assert renewed.expires_at == clock.time() + 60
    assert renewed.lease is not None
    assert renewed.lease.renewable


def test_truncated_renewal(
    dynamic: VaultAdapter, vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A renewal that max_ttl cut short says when it ends and that no other is worth asking for."""
    first = dynamic.fetch()
    warning = 'TTL of "60s" exceeded the effective max_ttl of "20s"'
    vault.script("PUT", RENEW, leased(20, warnings=[warning]))
    clock.advance(40)
    renewed = dynamic.renew(first)
    assert renewed is not None
    assert renewed.lease is not None
    assert (renewed.lease.duration, renewed.lease.renewable) == (20, False)
    assert renewed.expires_at == clock.time() + 20
    assert dynamic.renew(renewed) is None
    assert vault.count(RENEW) == 1


def test_increment_is_what_was_granted_at_first(
    dynamic: VaultAdapter, vault: ScriptedHttpServer
) -> None:
    """Each renewal asks for the lease's first duration, not for what is left."""
    vault.script("PUT", RENEW, leased(60))
    renewed = dynamic.renew(dynamic.fetch())
    assert renewed is not None
    dynamic.renew(renewed)
    sent = [request.json()["increment"] for request in vault.requests if request.path == RENEW]
    assert sent == [60, 60]


@pytest.mark.parametrize(
    "answer",
    [
        HttpAnswer(400, {"errors": ["lease not found"]}),
        HttpAnswer(400, {"errors": ["lease is not renewable"]}),
        HttpAnswer(403, {"errors": ["permission denied"]}),
        HttpAnswer(404, b""),
    ],
)
def test_refused_renewal(
    dynamic: VaultAdapter, vault: ScriptedHttpServer, answer: HttpAnswer
) -> None:
    """A renewal that Vault refuses is None: new credentials must be fetched."""
    vault.script("PUT", RENEW, answer)
    assert dynamic.renew(dynamic.fetch()) is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_renewal_during_an_outage(
    dynamic: VaultAdapter, vault: ScriptedHttpServer, status: int
) -> None:
    """A renewal that Vault could not consider is an outage, not a refusal."""
    vault.script("PUT", RENEW, HttpAnswer(status, {"errors": []}))
    with pytest.raises(CredentialsUnavailable, match="renewing its lease"):
        dynamic.renew(dynamic.fetch())


def test_nothing_to_renew(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """Without a renewable lease nothing is sent and None returned, whatever the secret."""
    vault.script("GET", CREDS, leased(60, renewable=False))
    dynamic, key_value = adapter(vault, clock, ROLE="app"), adapter(vault, clock, KV="app")
    assert dynamic.renew(dynamic.fetch()) is None
    assert key_value.renew(Credentials(user="u", password="pw")) is None
    assert vault.count(RENEW) == 0


@pytest.mark.parametrize(("status", "body"), [(204, {}), (400, {"errors": ["invalid lease"]})])
def test_revoke(
    dynamic: VaultAdapter, vault: ScriptedHttpServer, status: int, body: dict[str, Any]
) -> None:
    """Revoking sends the lease's id; a lease that is gone already is no error."""
    vault.script("PUT", REVOKE, HttpAnswer(status, body))
    dynamic.revoke(dynamic.fetch())
    assert vault.requests[-1].json() == {"lease_id": "lease/1"}


@pytest.mark.parametrize(
    ("status", "error"), [(403, CredentialsDenied), (503, CredentialsUnavailable)]
)
def test_failed_revoke(
    dynamic: VaultAdapter, vault: ScriptedHttpServer, status: int, error: type[Exception]
) -> None:
    """A revocation that was refused or not considered says so, after one request."""
    vault.script("PUT", REVOKE, HttpAnswer(status, {"errors": ["no"]}))
    with pytest.raises(error, match="sys/leases/revoke"):
        dynamic.revoke(dynamic.fetch())
    assert vault.count(REVOKE) == 1


def test_revoke_without_a_lease(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """Credentials without a lease have nothing to give back."""
    adapter(vault, clock, KV="app").revoke(Credentials(user="u", password="pw"))
    assert vault.requests == []


def static_answer(ttl: object, rotated: str = "2026-01-01T00:00:00Z") -> HttpAnswer:
    data = {"username": "u", "password": "pw", "ttl": ttl, "last_vault_rotation": rotated}
    return HttpAnswer(body={"data": data, "lease_id": "", "lease_duration": 0})


def test_static_role(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A static password is asked for again shortly after its change is due, and never expires."""
    vault.script("GET", STATIC, static_answer(100))
    found = adapter(vault, clock, STATIC_ROLE="app").fetch()
    assert (found.user, found.password, found.version) == ("u", "pw", "2026-01-01T00:00:00Z")
    assert (found.refresh_at, found.expires_at, found.lease) == (clock.time() + 101, None, None)


def test_overdue_static_role(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A change that is late keeps its due time, until there is a new version with a new one."""
    vault.script("GET", STATIC, static_answer(100), static_answer(0), static_answer(99, "later"))
    reader = adapter(vault, clock, STATIC_ROLE="app")
    due = reader.fetch().refresh_at
    clock.advance(130)
    assert reader.fetch().refresh_at == due
    renewed = reader.fetch()
    assert (renewed.refresh_at, renewed.version) == (clock.time() + 100, "later")


@pytest.mark.parametrize("ttl", [None, "soon", -1])
def test_static_role_without_a_time(
    vault: ScriptedHttpServer, clock: FakeClock, ttl: object
) -> None:
    """A static role that does not say when it changes is left to the source's TTL."""
    vault.script("GET", STATIC, static_answer(ttl))
    assert adapter(vault, clock, STATIC_ROLE="app").fetch().refresh_at is None


def test_mounts_and_kv1(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """MOUNT moves the path, and a KV 1 secret is read where version 1 keeps it."""
    body = {"data": {"user": "u", "password": "pw", "host": "h", "database": "d"}}
    vault.script("GET", "/v1/team/kv/app/db", HttpAnswer(body=body))
    found = adapter(vault, clock, KV="/app/db", MOUNT="team/kv/", KV_VERSION=1).fetch()
    assert found.connection_params() == {"user": "u", "password": "pw", "host": "h", "dbname": "d"}
    assert found.version is None
