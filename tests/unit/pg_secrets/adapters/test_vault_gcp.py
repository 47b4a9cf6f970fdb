"""Vault's GCP login: tokens of a machine and of a service account, parsed and verified.

OpenBao has no such method: what answers are the shapes that the documentation of Vault, of the
metadata server and of IAM Credentials gives.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.auth.compute_engine import _metadata

from pg_secrets.errors import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.vault import VaultAdapter

LOGIN = "/v1/auth/gcp/login"
ACCOUNT = "app@shop.iam.gserviceaccount.com"
OTHER = "db@shop.iam.gserviceaccount.com"
SIGN = f"/v1/projects/-/serviceAccounts/{OTHER}:signJwt"
MACHINE = "/computeMetadata/v1/instance/service-accounts/default"
#: Vault's answer to a login (HTTP API, Google Cloud auth method, "Login").
ANSWER = {
    "auth": {
        "client_token": "hvs.from-gcp",
        "accessor": "0e9e354a-520f-df04-6867-ee81cae3d42d",
        "token_type": "service",
        "policies": ["default", "dev"],
        "metadata": {
            "project_id": "shop",
            "role": "app",
            "service_account_email": ACCOUNT,
            "service_account_id": "110000000000000000000",
        },
        "lease_duration": 2764800,
        "renewable": True,
    }
}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """A service account's key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def google() -> Iterator[ScriptedHttpServer]:
    """What Google answers: its tokens, its IAM, and a machine's metadata."""
    with ScriptedHttpServer() as server:
        token = {"access_token": "canary-access", "expires_in": 3600, "token_type": "Bearer"}
        server.script("POST", "/token", HttpAnswer(body=token))
        yield server


@pytest.fixture
def key_file(key: rsa.RSAPrivateKey, google: ScriptedHttpServer, tmp_path: Path) -> Path:
    """The key as Google hands it out."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = tmp_path / "key.json"
    file.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": "shop",
                "private_key_id": "key-1",
                "private_key": pem.decode(),
                "client_email": ACCOUNT,
                "client_id": "110000000000000000000",
                "token_uri": f"{google.address}/token",
            }
        )
    )
    return file


@pytest.fixture
def machine(
    google: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ScriptedHttpServer:
    """A machine of Google's, whose account is the application's, and no other identity."""
    host = urlsplit(google.address).netloc
    # What GCE_METADATA_HOST says is read when Google's package is imported.
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
    monkeypatch.setenv("GCE_METADATA_IP", host)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    flavor = {"Metadata-Flavor": "Google"}
    google.script("GET", "/", HttpAnswer(headers=flavor))
    about = {"email": ACCOUNT, "aliases": ["default"], "scopes": []}
    google.script("GET", f"{MACHINE}/", HttpAnswer(body=about, headers=flavor))
    token = {"access_token": "canary-access", "expires_in": 3600, "token_type": "Bearer"}
    google.script("GET", f"{MACHINE}/token", HttpAnswer(body=token, headers=flavor))
    text = {"Content-Type": "text/html", **flavor}
    google.script("GET", f"{MACHINE}/identity", HttpAnswer(body=_machine_token(), headers=text))
    return google


def _machine_token() -> str:
    """An identity token as the metadata server gives it; only Vault looks at its signature."""
    claims = {"aud": "http://vault/app", "exp": int(time.time()) + 3600, "email": ACCOUNT}
    parts = [json.dumps({"alg": "RS256", "kid": "google"}), json.dumps(claims), "signature"]
    return ".".join(urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


def adapter(vault: ScriptedHttpServer, **auth: Any) -> VaultAdapter:
    vault.script("POST", LOGIN, HttpAnswer(body=ANSWER))
    secret = {"data": {"data": {"password": "pw"}, "metadata": {"version": 1}}}
    vault.script("GET", "/v1/secret/data/app", HttpAnswer(body=secret))
    auth = {"METHOD": "gcp", "ROLE": "app", **auth}
    return VaultAdapter.from_config({"ADDRESS": vault.address, "KV": "app", "AUTH": auth})


def login(vault: ScriptedHttpServer, **auth: Any) -> str:
    """Log in, and return the token that Vault was shown."""
    assert adapter(vault, **auth).fetch().password == "pw"
    assert vault.requests[-1].headers["x-vault-token"] == "hvs.from-gcp"
    sent = vault.requests[0].json()
    assert sent.keys() == {"role", "jwt"}
    assert sent["role"] == "app"
    return str(sent["jwt"])


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def verified(token: str, key: rsa.RSAPrivateKey) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a token's header and claims after looking at its signature."""
    head, claims, signature = token.split(".")
    signed = f"{head}.{claims}".encode()
    key.public_key().verify(decoded(signature), signed, padding.PKCS1v15(), hashes.SHA256())
    return json.loads(decoded(head)), json.loads(decoded(claims))


def test_a_key_signs(
    vault: ScriptedHttpServer, key: rsa.RSAPrivateKey, key_file: Path, google: ScriptedHttpServer
) -> None:
    """A service account's key signs here, for the role, for less than Vault's 15 minutes."""
    token = login(vault, TYPE="iam", CREDENTIALS_FILE=str(key_file))
    head, claims = verified(token, key)
    assert (head["alg"], head["kid"]) == ("RS256", "key-1")
    assert (claims["aud"], claims["sub"]) == ("vault/app", ACCOUNT)
    assert 60 < claims["exp"] - time.time() <= 900
    assert google.requests == []


def test_default_credentials_sign(
    vault: ScriptedHttpServer,
    key: rsa.RSAPrivateKey,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a file the key is that of Application Default Credentials."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    _, claims = verified(login(vault, TYPE="iam"), key)
    assert claims["sub"] == ACCOUNT


def test_google_signs_for_another_account(
    vault: ScriptedHttpServer,
    key_file: Path,
    google: ScriptedHttpServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For an account whose key is not at hand IAM is asked to sign the same claims."""
    google.script("POST", SIGN, HttpAnswer(body={"keyId": "g", "signedJwt": "canary.from.google"}))
    auth = {"CREDENTIALS_FILE": str(key_file), "SERVICE_ACCOUNT": OTHER}
    with caplog.at_level(logging.DEBUG):
        assert login(vault, TYPE="iam", ENDPOINT=google.address, **auth) == "canary.from.google"
    request = google.requests[-1]
    assert request.headers["authorization"] == "Bearer canary-access"
    claims = json.loads(request.json()["payload"])
    assert (claims["aud"], claims["sub"]) == ("vault/app", OTHER)
    assert 60 < claims["exp"] - time.time() <= 900
    assert "canary" not in caplog.text


def test_google_signs_for_a_machine(vault: ScriptedHttpServer, machine: ScriptedHttpServer) -> None:
    """A machine's credentials are no key: IAM signs for the account that the machine has."""
    sign = f"/v1/projects/-/serviceAccounts/{ACCOUNT}:signJwt"
    machine.script("POST", sign, HttpAnswer(body={"signedJwt": "by.google.itself"}))
    assert login(vault, TYPE="iam", ENDPOINT=machine.address) == "by.google.itself"
    assert json.loads(machine.requests[-1].json()["payload"])["sub"] == ACCOUNT


def test_a_machine(vault: ScriptedHttpServer, machine: ScriptedHttpServer) -> None:
    """The metadata server's token goes to Vault as it is; it was asked for the whole of it."""
    token = login(vault, TYPE="gce")
    request = machine.requests[-1]
    assert json.loads(decoded(token.split(".")[1]))["email"] == ACCOUNT
    assert urlsplit(request.path).path == f"{MACHINE}/identity"
    asked = parse_qs(urlsplit(request.path).query)
    assert (asked["audience"], asked["format"]) == (["http://vault/app"], ["full"])
    assert request.headers["metadata-flavor"] == "Google"


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (HttpAnswer(503, "busy"), CredentialsUnavailable, r"cannot answer now \(503\)"),
        (HttpAnswer(404, "no"), CredentialsDenied, "no identity"),
    ],
)
def test_a_machine_without_a_token(
    vault: ScriptedHttpServer,
    machine: ScriptedHttpServer,
    answer: HttpAnswer,
    kind: type[CredentialsError],
    text: str,
) -> None:
    """A metadata server that fails is asked once; one that has no account says that for good."""
    machine.script("GET", f"{MACHINE}/identity", answer)
    with pytest.raises(kind, match=text):
        adapter(vault, TYPE="gce").fetch()
    assert sum("/identity" in request.path for request in machine.requests) == 1
    assert vault.requests == []


def test_no_machine(vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no metadata server answers, that is said after one try."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
        with pytest.raises(CredentialsUnavailable, match="cannot be had now"):
            adapter(vault, TYPE="gce").fetch()
    assert vault.requests == []


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (
            HttpAnswer(403, {"error": {"code": 403, "message": "Permission denied on resource"}}),
            CredentialsDenied,
            r"iam.serviceAccounts.signJwt.*\(403: Permission denied",
        ),
        (HttpAnswer(429, {"error": {"message": "Quota"}}), CredentialsUnavailable, "429: Quota"),
        (HttpAnswer(503, "<html>canary"), CredentialsUnavailable, r"\(503\)"),
        (HttpAnswer(200, {"keyId": "canary"}), CredentialsInvalid, "without a signedJwt"),
        (HttpAnswer(200, "<html>canary"), CredentialsInvalid, "without a signedJwt"),
        (HttpAnswer(headers={"Content-Length": "9"}), CredentialsUnavailable, "be reached"),
    ],
)
def test_google_does_not_sign(
    vault: ScriptedHttpServer,
    key_file: Path,
    google: ScriptedHttpServer,
    answer: HttpAnswer,
    kind: type[CredentialsError],
    text: str,
) -> None:
    """IAM's refusals and outages are what they are, in its words, without the token."""
    google.script("POST", SIGN, answer)
    auth = {"CREDENTIALS_FILE": str(key_file), "SERVICE_ACCOUNT": OTHER, "TIMEOUT": 0.5}
    with pytest.raises(kind, match=text) as caught:
        adapter(vault, TYPE="iam", ENDPOINT=google.address, **auth).fetch()
    assert "canary" not in str(caught.value)
    assert vault.requests == []


def test_key_that_google_does_not_take(
    vault: ScriptedHttpServer, key_file: Path, google: ScriptedHttpServer
) -> None:
    """A key that was deleted is no identity to ask IAM with."""
    refusal = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    google.script("POST", "/token", HttpAnswer(400, refusal))
    auth = {"CREDENTIALS_FILE": str(key_file), "SERVICE_ACCOUNT": OTHER}
    with pytest.raises(CredentialsDenied, match="no identity"):
        adapter(vault, TYPE="iam", ENDPOINT=google.address, **auth).fetch()


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        (['role "app" not found'], 'role "app" not found'),
        (["role requires that service account JWTs expire within 900 seconds"], "900 seconds"),
    ],
)
def test_refusals(vault: ScriptedHttpServer, key_file: Path, errors: list[str], text: str) -> None:
    """What Vault refuses is a denial in its words."""
    reader = adapter(vault, TYPE="iam", CREDENTIALS_FILE=str(key_file))
    vault.script("POST", LOGIN, HttpAnswer(400, {"errors": errors}))
    with pytest.raises(CredentialsDenied, match=text):
        reader.fetch()


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ({}, "TYPE: is required"),
        ({"TYPE": "iam", "ROLE": None}, "ROLE: is required"),
        ({"TYPE": "gke"}, "'iam', 'gce'"),
        ({"TYPE": "gce", "CREDENTIALS_FILE": "/x"}, "CREDENTIALS_FILE: is only of use"),
        ({"TYPE": "gce", "SERVICE_ACCOUNT": "x"}, "SERVICE_ACCOUNT: is only of use"),
        ({"TYPE": "iam", "ENDPOINT": "iam.example"}, "ENDPOINT: expected a URL"),
    ],
)
def test_settings_that_are_wrong(
    vault: ScriptedHttpServer, auth: dict[str, Any], text: str
) -> None:
    """Said before anything is sent."""
    with pytest.raises(AdapterMisconfigured, match=text):
        adapter(vault, **auth)


def test_file_that_is_no_key(vault: ScriptedHttpServer, tmp_path: Path) -> None:
    """A key file that is not there, or holds something else, is named and not quoted."""
    file = tmp_path / "key.json"
    for text, why in ((None, "No such file"), ('{"type": "canary"}', "no service account's key")):
        if text is not None:
            file.write_text(text)
        with pytest.raises(AdapterMisconfigured, match=f"CREDENTIALS_FILE.*{why}") as caught:
            adapter(vault, TYPE="iam", CREDENTIALS_FILE=str(file)).fetch()
        assert "canary" not in str(caught.value)


def test_missing_google_auth(vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Google's packages the error names the pip command."""
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)
    with pytest.raises(AdapterNotInstalled, match=r"pip install 'channels-pg-secrets\[gcp\]'"):
        adapter(vault, TYPE="gce")
