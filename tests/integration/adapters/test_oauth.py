"""Tokens of a provider that speaks OAuth over TLS: scripted, as providers want accounts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.oauth import OAuthAdapter
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.process import free_port
from pg_secrets.testing.proxy import FaultProxy

NOW = 4_000_000_000.0
TOKEN = {"access_token": "t0ken-s3cret", "token_type": "Bearer", "expires_in": 3600}
SECRET = "cl1ent-s3cret"


@pytest.fixture
def provider(tls_server: ScriptedHttpServer) -> ScriptedHttpServer:
    """A token endpoint at /token, over TLS."""
    tls_server.script("POST", "/token", HttpAnswer(body=TOKEN))
    return tls_server


def adapter(address: str, **config: Any) -> OAuthAdapter:
    settings = {"CLIENT_ID": "app", "CLIENT_SECRET": SECRET, **config}
    if "ISSUER" not in config:
        settings["TOKEN_URL"] = f"{address}/token"
    return OAuthAdapter.from_config(settings, clock=lambda: NOW)


class TestContract(CredentialAdapterContract):
    """What all adapters keep."""

    @pytest.fixture(autouse=True)
    def _provider(self, provider: ScriptedHttpServer) -> None:
        self.provider = provider

    def make_adapter(self) -> OAuthAdapter:
        return adapter(self.provider.address, USERNAME="app@example")

    def expected(self) -> Mapping[str, Any]:
        return {"user": "app@example", "password": "t0ken-s3cret", "sslmode": "verify-full"}


class TestUnreachable(UnreachableStoreContract):
    """Nobody listens there."""

    def make_unreachable(self) -> OAuthAdapter:
        return adapter(f"https://127.0.0.1:{free_port()}")


def test_what_is_asked(provider: ScriptedHttpServer) -> None:
    """The client-credentials grant of RFC 6749, 4.4, with the client's secret as Basic login."""
    found = adapter(provider.address, SCOPE="db/.default", AUDIENCE="https://db").fetch()
    assert (found.user, found.password, found.expires_at) == (
        None,
        TOKEN["access_token"],
        NOW + 3600,
    )
    (request,) = provider.requests
    form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
    form.pop("client_id", None)  # which is no secret, and may stand here too
    assert form == {
        "grant_type": "client_credentials",
        "scope": "db/.default",
        "audience": "https://db",
    }
    kind, login = request.headers["authorization"].split()
    assert (kind, base64.b64decode(login).decode()) == ("Basic", f"app:{SECRET}")


def test_discovery(provider: ScriptedHttpServer) -> None:
    """The provider itself says where its token endpoint is."""
    place = "/tenant/.well-known/openid-configuration"
    known = {"token_endpoint": f"{provider.address}/token"}
    provider.script("GET", place, HttpAnswer(body=known))
    issuer = f"{provider.address}/tenant"
    assert adapter(provider.address, ISSUER=issuer).fetch().password == TOKEN["access_token"]
    bodies: list[Any] = [{"token_endpoint": "http://elsewhere/token"}, {}, "<html>", []]
    for body in bodies:
        provider.script("GET", place, HttpAnswer(body=body))
        with pytest.raises(CredentialsInvalid, match="names no https token_endpoint"):
            adapter(provider.address, ISSUER=issuer).fetch()
    provider.script("GET", place, HttpAnswer(503))
    with pytest.raises(CredentialsUnavailable, match="503"):
        adapter(provider.address, ISSUER=issuer).fetch()


def test_a_secret_in_a_file_is_read_each_time(provider: ScriptedHttpServer, tmp_path: Path) -> None:
    """Clients' secrets rotate too."""
    file = tmp_path / "secret"
    file.write_text("first\n")
    reader = adapter(provider.address, CLIENT_SECRET=None, CLIENT_SECRET_FILE=str(file))
    reader.fetch()
    file.write_text("second\n")
    reader.fetch()
    logins = [request.headers["authorization"].split()[1] for request in provider.requests]
    assert [base64.b64decode(login) for login in logins] == [b"app:first", b"app:second"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HttpAnswer(401, {"error": "invalid_client"}), CredentialsDenied),
        (HttpAnswer(400, {"error": "unauthorized_client"}), CredentialsDenied),
        (HttpAnswer(400, {"error": "invalid_scope"}), CredentialsDenied),
        (HttpAnswer(400, {"error": "invalid_request"}), CredentialsInvalid),
        (HttpAnswer(400, {"error": "unsupported_grant_type"}), CredentialsInvalid),
        (HttpAnswer(503, {"error": "temporarily_unavailable"}), CredentialsUnavailable),
        (HttpAnswer(502, "<html>a load balancer</html>"), CredentialsUnavailable),
        (HttpAnswer(429, {}), CredentialsUnavailable),
        (HttpAnswer(200, {}), CredentialsUnavailable),
        (HttpAnswer(200, {**TOKEN, "expires_in": -5}), CredentialsInvalid),
    ],
    ids=lambda value: str(value.status) if isinstance(value, HttpAnswer) else value.__name__,
)
def test_refusals(
    provider: ScriptedHttpServer, answer: HttpAnswer, expected: type[CredentialsError]
) -> None:
    """Errors of RFC 6749, 5.2, and answers that are none; no secret in any of them."""
    provider.script("POST", "/token", answer)
    with pytest.raises(expected) as caught:
        adapter(provider.address).fetch()
    assert type(caught.value) is expected
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_frozen(provider: ScriptedHttpServer) -> None:
    """A provider that takes the request and says nothing is given up after TIMEOUT."""
    with FaultProxy(int(provider.address.rpartition(":")[2])) as proxy:
        reader = adapter(f"https://127.0.0.1:{proxy.port}", TIMEOUT=0.3)
        reader.fetch()
        proxy.hold_answers()
        with pytest.raises(CredentialsUnavailable, match=r"in time|timed out"):
            reader.fetch()


def test_a_certificate_that_nobody_vouches_for(
    provider: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret is sent there."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(CredentialsUnavailable, match="TLS"):
        adapter(provider.address).fetch()
    assert not provider.requests


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"TOKEN_URL": None}, "TOKEN_URL: or ISSUER is required"),
        ({"ISSUER": "https://x"}, "only one of them"),
        ({"TOKEN_URL": "http://x/token"}, "https://"),
        ({"CLIENT_ID": None}, "CLIENT_ID: is required"),
        ({"CLIENT_SECRET": None}, "CLIENT_SECRET: is required"),
        ({"SSLMODE": "disable"}, "SSLMODE"),
        ({"CLIENTID": "x"}, "does not know: CLIENTID"),
    ],
)
def test_settings_that_are_wrong(change: dict[str, Any], text: str) -> None:
    """Said before anything is sent."""
    config = {"TOKEN_URL": "https://x/token", "CLIENT_ID": "a", "CLIENT_SECRET": SECRET, **change}
    with pytest.raises(AdapterMisconfigured, match=text) as caught:
        OAuthAdapter.from_config(config)
    assert SECRET not in str(caught.value)
