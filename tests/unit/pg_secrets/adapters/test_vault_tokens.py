"""The life of a Vault token: got once, renewed at 70 %, replaced, given back."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pg_secrets.errors import CredentialsDenied, CredentialsUnavailable
from pg_secrets.source import CredentialSource
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.vault import VaultAdapter

LOGIN = "/v1/auth/approle/login"
LOOKUP = "/v1/auth/token/lookup-self"
RENEW = "/v1/auth/token/renew-self"
REVOKE = "/v1/auth/token/revoke-self"
SECRET = "/v1/secret/data/app"
CREDS = "/v1/database/creds/app"
APPROLE = {"METHOD": "approle", "ROLE_ID": "role", "SECRET_ID": "secret"}
GOOD = HttpAnswer(body={"data": {"data": {"password": "pw"}, "metadata": {"version": 1}}})
DENIED = HttpAnswer(403, {"errors": ["permission denied"]})
OUTAGE = HttpAnswer(503, {"errors": ["Vault is sealed"]})


def auth(token: str, life: int = 100, *, renewable: bool = True) -> HttpAnswer:
    granted = {"client_token": token, "lease_duration": life, "renewable": renewable}
    return HttpAnswer(body={"auth": granted})


def lease(number: int, duration: int = 3600) -> HttpAnswer:
    data = {"username": f"u{number}", "password": "pw"}
    body = {"lease_id": f"lease/{number}", "lease_duration": duration, "renewable": True}
    return HttpAnswer(body=body | {"data": data})


def batch(token: str, life: int = 100) -> HttpAnswer:
    """A login that gives a batch token, as OpenBao and Vault answer it."""
    granted = {"client_token": token, "lease_duration": life, "renewable": False}
    return HttpAnswer(body={"auth": granted | {"token_type": "batch", "accessor": ""}})


def adapter(vault: ScriptedHttpServer, clock: FakeClock, **config: Any) -> VaultAdapter:
    secret = {} if "ROLE" in config else {"KV": "app"}
    settings = {"ADDRESS": vault.address, "AUTH": APPROLE, **secret, **config}
    return VaultAdapter.from_config(settings, clock=clock.time)


def paths(vault: ScriptedHttpServer) -> list[str]:
    return [request.path.rpartition("/")[2] for request in vault.requests]


def tokens(vault: ScriptedHttpServer, path: str) -> list[str | None]:
    return [
        request.headers.get("x-vault-token") for request in vault.requests if request.path == path
    ]


def test_one_login_serves_many_fetches(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A token is used until 70 % of its life without another login or renewal."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    reader.fetch()
    clock.advance(69)
    reader.fetch()
    assert paths(vault) == ["login", "app", "app"]


def test_token_is_renewed_at_70_percent(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """From 70 % of its life on a token is renewed, and then good for its new life."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("POST", RENEW, auth("one"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    assert reader.fetch().refresh_at == clock.time() + 70
    clock.advance(70)
    assert reader.fetch().refresh_at == clock.time() + 70
    clock.advance(69)
    reader.fetch()
    assert paths(vault) == ["login", "app", "renew-self", "app", "app"]


@pytest.mark.parametrize(
    "renewal", [HttpAnswer(400, {"errors": ["lease is not renewable"]}), auth("one", 20), DENIED]
)
def test_token_that_cannot_be_renewed_is_replaced(
    vault: ScriptedHttpServer, clock: FakeClock, renewal: HttpAnswer
) -> None:
    """A refused or truncated renewal makes AppRole log in again, and the old token is revoked."""
    vault.script("POST", LOGIN, auth("one"), auth("two"))
    vault.script("POST", RENEW, renewal)
    vault.script("POST", REVOKE, HttpAnswer(204))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    reader.fetch()
    clock.advance(75)
    reader.fetch()
    assert tokens(vault, SECRET) == ["one", "two"]
    assert tokens(vault, REVOKE) == ["one"]


def test_renewal_during_an_outage_costs_no_token(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A renewal that Vault could not consider leaves the token in use, to be renewed later."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("POST", RENEW, OUTAGE, auth("one"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    reader.fetch()
    clock.advance(75)
    reader.fetch()
    reader.fetch()
    assert paths(vault) == ["login", "app", "renew-self", "app", "renew-self", "app"]


def test_failed_early_login_keeps_the_present_token(
    vault: ScriptedHttpServer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is due but good stays in use when logging in fails, with a warning."""
    vault.script("POST", LOGIN, auth("one", renewable=False), OUTAGE)
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    reader.fetch()
    clock.advance(75)
    with caplog.at_level(logging.WARNING):
        assert reader.fetch().refresh_at == clock.time() + 10
    assert tokens(vault, SECRET) == ["one", "one"]
    assert "till it ends" in caplog.text
    clock.advance(25)
    with pytest.raises(CredentialsUnavailable):
        reader.fetch()


def test_403_logs_in_again_once(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """After a 403 one more login is tried, the request repeated, and the refused token revoked."""
    vault.script("POST", LOGIN, auth("one"), auth("two"))
    vault.script("POST", REVOKE, HttpAnswer(204))
    vault.script("GET", SECRET, DENIED, GOOD)
    assert adapter(vault, clock).fetch().password == "pw"
    assert paths(vault) == ["login", "app", "login", "revoke-self", "app"]
    assert tokens(vault, REVOKE) == ["one"]


def test_second_403_is_permanent(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A 403 to a fresh token is a denial, after two requests and no more."""
    vault.script("POST", LOGIN, auth("one"), auth("two"))
    vault.script("GET", SECRET, DENIED)
    with pytest.raises(CredentialsDenied, match="permission denied"):
        adapter(vault, clock).fetch()
    assert tokens(vault, SECRET) == ["one", "two"]


@pytest.mark.parametrize("status", [403, 404])
def test_answer_of_a_load_balancer_is_an_outage(
    vault: ScriptedHttpServer, clock: FakeClock, status: int
) -> None:
    """A 403 or 404 that is not Vault's own costs no other login and may be gone at the next try."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("GET", SECRET, HttpAnswer(status, "<html>"), GOOD)
    reader = adapter(vault, clock)
    with pytest.raises(CredentialsUnavailable, match="load balancer"):
        reader.fetch()
    assert reader.fetch().password == "pw"
    assert vault.count(LOGIN) == 1


BAD = [HttpAnswer(429, {"errors": ["rate limit"]}), OUTAGE, HttpAnswer(403, "<html>")]


@pytest.mark.parametrize("bad", BAD, ids=["429", "503", "load balancer"])
def test_one_bad_answer_loses_no_token_that_was_given(
    vault: ScriptedHttpServer, clock: FakeClock, bad: HttpAnswer
) -> None:
    """A renewal that was not considered is tried again long before the token ends."""
    vault.script("GET", LOOKUP, HttpAnswer(body={"data": {"ttl": 600, "renewable": True}}))
    vault.script("POST", RENEW, bad, auth("given", 600))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN": "given"})
    reader.fetch()
    clock.advance(420)
    assert reader.fetch().refresh_at == clock.time() + 10
    clock.advance(10)
    assert reader.fetch().refresh_at == clock.time() + 420
    assert vault.count(RENEW) == 2


def test_token_is_looked_up_again_after_a_load_balancers_answer(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A given token whose look-up did not reach Vault is looked up again."""
    known = HttpAnswer(body={"data": {"ttl": 100, "renewable": True}})
    vault.script("GET", LOOKUP, HttpAnswer(403, "<html>"), known)
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN": "given"})
    with pytest.raises(CredentialsUnavailable):
        reader.fetch()
    assert reader.fetch().refresh_at == clock.time() + 70


def test_load_balancer_does_not_refuse_a_lease(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A renewal or revocation of a lease that did not reach Vault is an outage, not a refusal."""
    vault.script("POST", LOGIN, auth("one", 7200))
    vault.script("GET", CREDS, lease(1))
    vault.script("PUT", "/v1/sys/leases/renew", HttpAnswer(403, "<html>"))
    vault.script("PUT", "/v1/sys/leases/revoke", HttpAnswer(404, "<html>"))
    reader = adapter(vault, clock, ROLE="app")
    found = reader.fetch()
    with pytest.raises(CredentialsUnavailable):
        reader.renew(found)
    with pytest.raises(CredentialsUnavailable):
        reader.revoke(found)


def test_given_token_is_not_tried_twice(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A 403 to a token that was given is a denial at once, as there is no other."""
    vault.script("GET", SECRET, DENIED)
    with pytest.raises(CredentialsDenied):
        adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN": "given"}).fetch()
    assert tokens(vault, SECRET) == ["given"]


def test_given_token_is_renewed_and_never_revoked(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A token that was given is renewed at 70 % of what it had left, and outlives the adapter."""
    vault.script("GET", LOOKUP, HttpAnswer(body={"data": {"ttl": 100, "renewable": True}}))
    vault.script("POST", RENEW, auth("given"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN": "given"})
    reader.fetch()
    clock.advance(70)
    reader.fetch()
    reader.close()
    assert paths(vault) == ["lookup-self", "app", "renew-self", "app"]


def test_token_file_is_read_again_when_it_changes(
    vault: ScriptedHttpServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A new token in the sink of Vault Agent is used from the next request on."""
    vault.script("GET", SECRET, GOOD)
    sink = tmp_path / "sink"
    sink.write_text("one\n")
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN_FILE": str(sink)})
    reader.fetch()
    (tmp_path / "new").write_text("two\n")
    (tmp_path / "new").replace(sink)
    reader.fetch()
    sink.unlink()
    reader.fetch()
    assert tokens(vault, SECRET) == ["one", "two", "two"]


def test_token_file_that_is_not_there_yet(
    vault: ScriptedHttpServer, clock: FakeClock, tmp_path: Path
) -> None:
    """A sink that Vault Agent has not written yet is worth another try, and sends nothing."""
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN_FILE": tmp_path / "sink"})
    with pytest.raises(CredentialsUnavailable, match=str(tmp_path / "sink")):
        reader.fetch()
    assert vault.requests == []


def test_default_token(
    vault: ScriptedHttpServer, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without AUTH the token is VAULT_TOKEN's, else the one in ~/.vault-token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VAULT_ADDR", vault.address)
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    (tmp_path / ".vault-token").write_text("from-home")
    vault.script("GET", SECRET, GOOD)
    VaultAdapter.from_config({"KV": "app"}, clock=clock.time).fetch()
    monkeypatch.setenv("VAULT_TOKEN", "from-env")
    VaultAdapter.from_config({"KV": "app"}, clock=clock.time).fetch()
    assert tokens(vault, SECRET) == ["from-home", "from-env"]


def test_secret_id_is_read_for_every_login(
    vault: ScriptedHttpServer, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret id that was replaced in its file is used at the next login."""
    monkeypatch.setenv("APP_ROLE", "role-from-env")
    (tmp_path / "id").write_text("first\n")
    ids = {"ROLE_ID_ENV": "APP_ROLE", "SECRET_ID_FILE": tmp_path / "id", "MOUNT": "approle"}
    vault.script("POST", LOGIN, auth("one", renewable=False))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, AUTH={"METHOD": "approle", **ids})
    reader.fetch()
    (tmp_path / "id").write_text("second\n")
    clock.advance(100)
    reader.fetch()
    sent = [request.json() for request in vault.requests if request.path == LOGIN]
    assert sent == [
        {"role_id": "role-from-env", "secret_id": "first"},
        {"role_id": "role-from-env", "secret_id": "second"},
    ]


def test_concurrent_first_uses_log_in_once(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """Ten threads that fetch at once cost one login."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    threads = [threading.Thread(target=reader.fetch) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (vault.count(LOGIN), vault.count(SECRET)) == (1, 10)


# leases hang on tokens --------------------------------------------------------------------


def test_lease_ends_with_its_token(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A lease longer than its token's rest lasts no longer than that."""
    vault.script("POST", LOGIN, auth("one", 100))
    vault.script("GET", CREDS, lease(1, 3600), lease(2, 10))
    reader = adapter(vault, clock, ROLE="app")
    long, start = reader.fetch(), clock.time()
    clock.advance(30)
    short = reader.fetch()
    assert (long.lease and long.lease.duration, long.expires_at) == (100, start + 100)
    assert (short.lease and short.lease.duration, short.expires_at) == (10, start + 40)


def test_renewing_a_lease_renews_its_token(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """When the token is due, renewing the lease renews it first, and the lease gains by it."""
    vault.script("POST", LOGIN, auth("one", 100))
    vault.script("POST", RENEW, auth("one", 100))
    vault.script("GET", CREDS, lease(1, 3600))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1, 3600))
    reader = adapter(vault, clock, ROLE="app")
    first = reader.fetch()
    clock.advance(70)
    renewed = reader.renew(first)
    assert renewed is not None
    assert renewed.lease is not None
    assert renewed.lease.renewable
    assert renewed.expires_at == clock.time() + 100
    assert vault.requests[-1].json() == {"lease_id": "lease/1", "increment": 3600}


def test_renewed_lease_is_not_cut_short_by_a_token_that_can_be_renewed(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A token that would end before the lease is renewed first, though it is not due yet."""
    vault.script("POST", LOGIN, auth("one", 100))
    vault.script("POST", RENEW, auth("one", 100))
    vault.script("GET", CREDS, lease(1, 100))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1, 100))
    reader = adapter(vault, clock, ROLE="app")
    first = reader.fetch()
    clock.advance(67)
    renewed = reader.renew(first)
    assert renewed is not None
    assert renewed.expires_at == clock.time() + 100


def test_token_that_cannot_be_renewed_is_not_replaced_for_a_lease_of_its_own(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A login would not prolong a lease that hangs on the present token: none is made early."""
    vault.script("POST", LOGIN, auth("one", 100, renewable=False))
    vault.script("GET", CREDS, lease(1, 100))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1, 100))
    reader = adapter(vault, clock, ROLE="app")
    first = reader.fetch()
    clock.advance(67)
    reader.renew(first)
    assert vault.count(LOGIN) == 1


def test_superseded_token_lives_as_long_as_its_lease(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A replaced token with a lease on it bounds that lease, and is revoked at close only."""
    vault.script("POST", LOGIN, auth("one", 100, renewable=False), auth("two", 1000))
    vault.script("POST", REVOKE, HttpAnswer(204))
    vault.script("GET", CREDS, lease(1), lease(2))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1))
    reader = adapter(vault, clock, ROLE="app")
    first, start = reader.fetch(), clock.time()
    clock.advance(75)
    assert reader.fetch().expires_at == clock.time() + 1000
    assert vault.count(REVOKE) == 0
    renewed = reader.renew(first)
    assert renewed is not None
    assert renewed.expires_at == start + 100
    reader.close()
    assert tokens(vault, REVOKE) == ["one", "two"]


# leases that several processes share ------------------------------------------------------


def test_shared_lease_is_renewed_with_the_token_it_hangs_on(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """Who renews what another process fetched renews that one's token, and ends with it."""
    vault.script("POST", LOGIN, auth("one", 100))
    vault.script("POST", RENEW, auth("one", 100))
    vault.script("GET", CREDS, lease(1, 3600))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1, 3600))
    first, second = adapter(vault, clock, ROLE="app"), adapter(vault, clock, ROLE="app")
    found = first.fetch()
    ground = first.lease_ground(found)
    assert ground is not None
    clock.advance(70)
    second.take_ground(found, json.loads(json.dumps(ground)))
    renewed = second.renew(found)
    assert renewed is not None
    assert renewed.expires_at == clock.time() + 100
    assert (tokens(vault, RENEW), vault.count(LOGIN)) == (["one"], 1)
    assert second.lease_ground(renewed) == {**ground, "since": clock.time()}
    assert "one" not in repr(second)


def test_tokens_of_shared_leases_stay_when_they_are_replaced(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A token that others may use is revoked by the last who closes, and by nobody who leaves."""
    vault.script("POST", LOGIN, auth("one"), auth("two"))
    vault.script("POST", REVOKE, HttpAnswer(204))
    vault.script("GET", CREDS, lease(1), lease(2))
    first, second = adapter(vault, clock, ROLE="app"), adapter(vault, clock, ROLE="app")
    found = first.fetch()
    ground = first.lease_ground(found)
    assert ground is not None
    own = second.fetch()
    second.take_ground(found, ground)
    second.revoke(own)
    first.leave()
    assert vault.count(REVOKE) == 0
    second.close()
    assert tokens(vault, REVOKE) == ["two", "one"]


# batch tokens -----------------------------------------------------------------------------


def test_batch_token_is_replaced_in_time(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A batch token is neither renewed nor revoked: at 70 % of its life another is got."""
    vault.script("POST", LOGIN, batch("one"), batch("two"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock)
    assert reader.fetch().refresh_at == clock.time() + 70
    clock.advance(69)
    reader.fetch()
    clock.advance(1)
    assert reader.fetch().refresh_at == clock.time() + 70
    reader.close()
    assert paths(vault) == ["login", "app", "app", "login", "app"]
    assert tokens(vault, SECRET) == ["one", "one", "two"]


def test_batch_token_that_was_given_is_left_alone(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """One that somebody else made is used till it ends, and nothing is tried with it."""
    known = {"ttl": 100, "renewable": False, "type": "batch", "accessor": ""}
    vault.script("GET", LOOKUP, HttpAnswer(body={"data": known}))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, AUTH={"METHOD": "token", "TOKEN": "hvb.given"})
    assert reader.fetch().refresh_at is None
    clock.advance(90)
    reader.fetch()
    reader.close()
    assert paths(vault) == ["lookup-self", "app", "app"]


def test_new_lease_is_not_hung_on_an_old_batch_token(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """A token that cannot be renewed, and is half used up, is replaced before a lease is asked."""
    vault.script("POST", LOGIN, batch("one"), batch("two"))
    vault.script("GET", CREDS, lease(1), lease(2), lease(3))
    reader = adapter(vault, clock, ROLE="app")
    reader.fetch()
    clock.advance(49)
    assert reader.fetch().expires_at == clock.time() + 51
    clock.advance(1)
    assert reader.fetch().expires_at == clock.time() + 100
    reader.close()
    assert tokens(vault, CREDS) == ["one", "one", "two"]
    assert vault.count(REVOKE) == 0


class NoJitter(Random):
    """Rolls nothing."""

    def random(self) -> float:
        return 0.0


def test_source_changes_batch_tokens_and_leases_together(
    vault: ScriptedHttpServer, clock: FakeClock
) -> None:
    """Each lease of a source lasts as long as its batch token, and is replaced before both end."""
    vault.script("POST", LOGIN, batch("one"), batch("two"))
    vault.script("GET", CREDS, lease(1), lease(2))
    vault.script("PUT", "/v1/sys/leases/renew", lease(1))
    source = CredentialSource(
        adapter(vault, clock, ROLE="app"), background=False, clock=clock, random=NoJitter()
    )
    assert source.get().user == "u1"
    clock.advance(68)  # the token itself is not due yet
    found = source.get()
    assert (found.user, found.generation, found.expires_at) == ("u2", 2, clock.time() + 100)
    assert tokens(vault, CREDS) == ["one", "two"]


def test_close_survives_an_outage(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """Closing while Vault is away raises nothing."""
    vault.script("POST", LOGIN, auth("one"))
    vault.script("GET", SECRET, GOOD)
    reader = adapter(vault, clock, TIMEOUT=0.05, CONNECT_TIMEOUT=0.05)
    reader.fetch()
    vault.script("POST", REVOKE, OUTAGE)
    reader.close()
    assert vault.count(REVOKE) == 1


def test_close_revokes_every_token(vault: ScriptedHttpServer, clock: FakeClock) -> None:
    """A token whose revocation fails on the way does not keep the next one from being revoked."""
    broken = HttpAnswer(body="no chunk", headers={"Transfer-Encoding": "chunked"})
    vault.script("POST", LOGIN, auth("one", 100, renewable=False), auth("two", 1000))
    vault.script("GET", CREDS, lease(1), lease(2))
    vault.script("POST", REVOKE, broken, HttpAnswer(204))
    reader = adapter(vault, clock, ROLE="app")
    reader.fetch()
    clock.advance(75)
    reader.fetch()
    reader.close()
    assert tokens(vault, REVOKE) == ["one", "two"]


# fork -------------------------------------------------------------------------------------

FORK = """
import os, sys
from pg_secrets.vault import VaultAdapter
auth = {"METHOD": "approle", "ROLE_ID": "role", "SECRET_ID": "secret"}
adapter = VaultAdapter.from_config({"ADDRESS": sys.argv[1], "AUTH": auth, "KV": "app"})
adapter.fetch()
child = os.fork()
if child == 0:
    adapter.fetch()
    adapter.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
adapter.fetch()
inheritor = os.fork()
if inheritor == 0:
    adapter.close()
    os._exit(0)
assert os.waitpid(inheritor, 0)[1] == 0
"""


def test_forked_child_has_a_token_of_its_own(vault: ScriptedHttpServer) -> None:
    """A child logs in for itself and revokes its own token, never the one it inherited."""
    vault.script("POST", LOGIN, auth("parent"), auth("child"))
    vault.script("POST", REVOKE, HttpAnswer(204))
    vault.script("GET", SECRET, GOOD)
    subprocess.run([sys.executable, "-c", FORK, vault.address], check=True, timeout=30)
    assert tokens(vault, SECRET) == ["parent", "child", "parent"]
    assert tokens(vault, REVOKE) == ["child"]
