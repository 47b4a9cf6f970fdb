"""Every answer a Vault, or what stands before it, can give, mapped to the right error.

The server is scripted: these are shapes a real Vault cannot be made to give on demand.
"""

from __future__ import annotations

import socket
import traceback
from typing import Any

import pytest
import requests

from pg_secrets.errors import (
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.vault import VaultAdapter

TOKEN = "hvs.canary-token"
HTML = HttpAnswer(body="<html>canary</html>", headers={"Content-Type": "text/html"})
SECRET = "/v1/secret/data/app"
GOOD = {"data": {"data": {"username": "app", "password": "pw"}, "metadata": {"version": 3}}}
#: As Vault and OpenBao say it while a KV mount becomes one of version 2.
UPGRADING = (
    "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief"
    " period and will resume service shortly."
)
DYNAMIC = {
    "lease_id": "database/creds/app/1",
    "lease_duration": 60,
    "renewable": True,
    "data": {"username": "app", "password": "pw"},
}


def adapter(vault: ScriptedHttpServer, **config: Any) -> VaultAdapter:
    auth = {"METHOD": "token", "TOKEN": TOKEN}
    config = {"KV": "app"} | config if "ROLE" not in config else config
    return VaultAdapter.from_config({"ADDRESS": vault.address, "AUTH": auth, **config})


def assert_no_canary(error: BaseException) -> None:
    """Fail if the canary stands in the error, its cause, or a frame of ours it came through."""
    text = "".join(traceback.format_exception(error))
    assert "canary" not in text
    assert error.__context__ is None
    for frame, _ in list(traceback.walk_tb(error.__traceback__))[1:]:
        assert "canary" not in repr(frame.f_locals)
    cause = error.__cause__
    assert cause is None or not getattr(cause, "request", None)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, CredentialsDenied),
        (401, CredentialsDenied),
        (403, CredentialsDenied),
        (404, CredentialsNotFound),
        (405, CredentialsNotFound),
        (408, CredentialsUnavailable),
        (412, CredentialsUnavailable),
        (413, CredentialsDenied),
        (429, CredentialsUnavailable),
        (472, CredentialsUnavailable),
        (473, CredentialsUnavailable),
        (500, CredentialsUnavailable),
        (501, CredentialsUnavailable),
        (502, CredentialsUnavailable),
        (503, CredentialsUnavailable),
        (504, CredentialsUnavailable),
    ],
)
def test_states(vault: ScriptedHttpServer, status: int, kind: type[CredentialsError]) -> None:
    """Each HTTP state is one kind of error, which gives the state and Vault's own words."""
    answer = HttpAnswer(status, {"errors": [f"no, {TOKEN}, password=canary"]})
    vault.script("GET", SECRET, answer)
    with pytest.raises(CredentialsError) as caught:
        adapter(vault).fetch()
    assert type(caught.value) is kind
    assert f"({status}: no, ***, password=***" in str(caught.value)
    assert "secret/data/app" in str(caught.value)
    assert_no_canary(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (HTML, CredentialsInvalid, "is this really a Vault"),
        (HttpAnswer(204), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body='{"data": {"canary'), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body="[]"), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body="[" * 50000), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body={"data": None}), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body={"data": "canary"}), CredentialsInvalid, "holds no 'data'"),
        (HttpAnswer(body={"data": {"data": None}}), CredentialsInvalid, "check KV_VERSION"),
        (HttpAnswer(body={"data": {"password": "canary"}}), CredentialsInvalid, "KV_VERSION"),
        (
            HttpAnswer(body={"data": {"data": {"pass": "canary"}, "metadata": {}}}),
            CredentialsInvalid,
            "no 'password'; FIELDS",
        ),
        (HttpAnswer(304), CredentialsInvalid, "unexpected answer"),
        (HttpAnswer(403, "<html>canary</html>"), CredentialsUnavailable, "load balancer"),
        (HttpAnswer(400, {"errors": [{}]}), CredentialsDenied, "refused the request"),
        (HttpAnswer(403, {"errors": None}), CredentialsDenied, "policy lacks"),
        (HttpAnswer(403, {"errors": "canary"}), CredentialsDenied, "policy lacks"),
        (HttpAnswer(404, {"errors": [[], 3, ""]}), CredentialsNotFound, "check MOUNT"),
        (HttpAnswer(404, b""), CredentialsNotFound, "check MOUNT"),
        (HttpAnswer(404, {"data": {"metadata": None}}), CredentialsNotFound, "check MOUNT"),
        (
            HttpAnswer(404, {"data": {"metadata": {"version": 2, "destroyed": True}}}),
            CredentialsNotFound,
            "version 2 was destroyed",
        ),
        (HttpAnswer(503, {"errors": ["Vault is sealed"]}), CredentialsUnavailable, "sealed"),
        (HttpAnswer(400, {"errors": ["unknown role: x"]}), CredentialsNotFound, "unknown role"),
        (HttpAnswer(400, {"errors": [UPGRADING]}), CredentialsUnavailable, "cannot answer now"),
    ],
)
def test_odd_shapes(
    vault: ScriptedHttpServer, answer: HttpAnswer, kind: type[CredentialsError], text: str
) -> None:
    """No shape of an answer crashes: each is one error that says what to look at."""
    vault.script("GET", SECRET, answer)
    with pytest.raises(CredentialsError, match=text) as caught:
        adapter(vault).fetch()
    assert type(caught.value) is kind
    assert_no_canary(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"lease_id": None},
        {"lease_id": ""},
        {"lease_duration": None},
        {"lease_duration": "60"},
        {"lease_duration": 0},
        {"lease_duration": True},
        {"data": {"username": "app", "password": None}},
        {"data": {"username": "app"}},
        {"data": {"username": "", "password": "canary"}},
    ],
)
def test_malformed_dynamic_login(vault: ScriptedHttpServer, change: dict[str, Any]) -> None:
    """A dynamic login without a lease, a user or a password is malformed."""
    vault.script("GET", "/v1/database/creds/app", HttpAnswer(body=DYNAMIC | change))
    with pytest.raises(CredentialsInvalid) as caught:
        adapter(vault, ROLE="app").fetch()
    assert_no_canary(caught.value)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (DYNAMIC, "has a lease"),
        ({"data": None}, "holds no 'data'"),
        ({"data": {"username": "app"}}, "no 'password'"),
    ],
)
def test_odd_wrapped_logins(vault: ScriptedHttpServer, body: object, text: str) -> None:
    """What was wrapped and is no login is malformed, as is one whose lease nobody can renew."""
    vault.script("PUT", "/v1/sys/wrapping/unwrap", HttpAnswer(body=body))
    vault.script("POST", "/v1/sys/wrapping/unwrap", HttpAnswer(body=body))
    reader = VaultAdapter.from_config({"ADDRESS": vault.address, "WRAPPED": "canary-token"})
    with pytest.raises(CredentialsInvalid, match=text) as caught:
        reader.fetch()
    assert_no_canary(caught.value)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"auth": None}, CredentialsInvalid),
        ({"auth": {}}, CredentialsInvalid),
        ({"auth": {"client_token": None}}, CredentialsInvalid),
        ("<html>", CredentialsInvalid),
    ],
)
def test_odd_login_answers(
    vault: ScriptedHttpServer, body: object, kind: type[CredentialsError]
) -> None:
    """A login that answers without a token is malformed, not a crash."""
    vault.script("POST", "/v1/auth/approle/login", HttpAnswer(body=body))
    auth = {"METHOD": "approle", "ROLE_ID": "role", "SECRET_ID": "canary"}
    with pytest.raises(kind) as caught:
        adapter(vault, AUTH=auth).fetch()
    assert_no_canary(caught.value)


def test_login_that_echoes_the_secret_id(vault: ScriptedHttpServer) -> None:
    """A refusal that quotes the secret id is shown without it."""
    answer = HttpAnswer(400, {"errors": ["invalid secret id canary"]})
    vault.script("POST", "/v1/auth/approle/login", answer)
    auth = {"METHOD": "approle", "ROLE_ID": "role", "SECRET_ID": "canary"}
    with pytest.raises(CredentialsDenied, match=r"invalid secret id \*\*\*") as caught:
        adapter(vault, AUTH=auth).fetch()
    assert_no_canary(caught.value)


def test_odd_token_lookup(vault: ScriptedHttpServer) -> None:
    """A token whose life cannot be looked up is used as one of unknown life."""
    vault.script("GET", "/v1/auth/token/lookup-self", HttpAnswer(403, {"errors": ["no"]}))
    vault.script("GET", SECRET, HttpAnswer(body=GOOD))
    found = adapter(vault).fetch()
    assert (found.user, found.version, found.refresh_at) == ("app", "3", None)


def test_refused_connection() -> None:
    """A port nobody listens on is unavailability, the cause chained without its request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        auth = {"METHOD": "token", "TOKEN": TOKEN}
        closed = VaultAdapter.from_config({"ADDRESS": address, "AUTH": auth, "KV": "app"})
        with pytest.raises(CredentialsUnavailable, match="the connection failed") as caught:
            closed.fetch()
    assert isinstance(caught.value.__cause__, requests.RequestException)
    assert_no_canary(caught.value)


def test_silent_server() -> None:
    """A server that takes the request and says nothing is given up after the read time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        auth = {"METHOD": "token", "TOKEN": TOKEN}
        config = {"ADDRESS": address, "AUTH": auth, "KV": "app", "TIMEOUT": 0.05}
        with pytest.raises(CredentialsUnavailable, match=r"in time \(TIMEOUT") as caught:
            VaultAdapter.from_config(config).fetch()
    assert_no_canary(caught.value)


def test_tls_against_plain_http(vault: ScriptedHttpServer) -> None:
    """TLS that fails says that CA_BUNDLE may be wrong."""
    address = vault.address.replace("http:", "https:")
    with pytest.raises(CredentialsUnavailable, match="TLS failed; CA_BUNDLE"):
        adapter(vault, ADDRESS=address).fetch()


def test_namespace_and_pin_are_sent(
    vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VAULT_NAMESPACE, which hvac does not read, and VERSION go out with the request."""
    monkeypatch.setenv("VAULT_NAMESPACE", "team")
    vault.script("GET", SECRET, HttpAnswer(body=GOOD))
    adapter(vault, VERSION=3).fetch()
    request = vault.requests[-1]
    assert request.headers["x-vault-namespace"] == "team"
    assert request.path == f"{SECRET}?version=3"


def test_environment_token_does_not_leak_in(
    vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login is sent without the VAULT_TOKEN that hvac would pick up."""
    monkeypatch.setenv("VAULT_TOKEN", "canary")
    login = {"auth": {"client_token": "new", "lease_duration": 60}}
    vault.script("POST", "/v1/auth/approle/login", HttpAnswer(body=login))
    vault.script("GET", SECRET, HttpAnswer(body=GOOD))
    adapter(vault, AUTH={"METHOD": "approle", "ROLE_ID": "role"}).fetch()
    assert [request.headers.get("x-vault-token") for request in vault.requests] == [None, "new"]
