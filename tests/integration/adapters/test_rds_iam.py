"""RDS tokens: signed here, checked by signing again with the same keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from unittest.mock import ANY
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from pg_secrets.errors import AdapterMisconfigured, CredentialsDenied
from pg_secrets.rds_iam import TOKEN_LIFETIME, USED_FOR, RdsIamAdapter
from pg_secrets.testing.contract import CredentialAdapterContract

HOST = "app.abc123.eu-central-1.rds.amazonaws.com"
CONFIG = {"HOST": HOST, "USERNAME": "app", "REGION": "eu-central-1"}
SECRET_KEY = "a-secret-key-of-nobody"


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment, and nothing of what a developer's AWS configuration says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent/aws")


class TestContract(CredentialAdapterContract):
    """What all adapters keep."""

    def make_adapter(self) -> RdsIamAdapter:
        return RdsIamAdapter.from_config(CONFIG)

    def expected(self) -> Mapping[str, Any]:
        params = {"host": HOST, "port": 5432, "sslmode": "verify-full"}
        return {"user": "app", "password": ANY, **params}


def test_the_token_is_signed_for_the_user_and_the_host() -> None:
    """Signature Version 4, computed a second time from what AWS' documentation says."""
    token = RdsIamAdapter.from_config({**CONFIG, "PORT": 5433}).fetch().password
    parts = urlsplit(f"https://{token}")
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    assert parts.netloc == f"{HOST}:5433"
    assert (query["Action"], query["DBUser"]) == ("connect", "app")
    assert float(query["X-Amz-Expires"]) == TOKEN_LIFETIME
    signature = query.pop("X-Amz-Signature")
    assert signature == _signature(query, parts.netloc)


def _signature(query: Mapping[str, str], netloc: str) -> str:
    """AWS Signature Version 4 of a presigned URL (AWS General Reference)."""
    canonical = "&".join(f"{quote(k, safe='')}={quote(query[k], safe='')}" for k in sorted(query))
    empty = hashlib.sha256(b"").hexdigest()
    request = f"GET\n/\n{canonical}\nhost:{netloc}\n\nhost\n{empty}"
    _, date, region, service, last = query["X-Amz-Credential"].split("/")
    scope = f"{date}/{region}/{service}/{last}"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashed}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (date, region, service, last):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def test_it_is_replaced_before_it_ends() -> None:
    """A little earlier than RDS stops taking it."""
    reader = RdsIamAdapter.from_config(CONFIG, clock=lambda: 4_000_000_000.0)
    assert reader.fetch().expires_at == 4_000_000_000.0 + USED_FOR
    assert USED_FOR < TOKEN_LIFETIME


def test_tls_is_a_must() -> None:
    """The server is checked unless less is asked for; no TLS cannot be asked for."""
    given = {**CONFIG, "SSLMODE": "require", "SSLROOTCERT": "/etc/bundle.pem"}
    parameters = RdsIamAdapter.from_config(given).fetch().parameters
    assert (parameters["sslmode"], parameters["sslrootcert"]) == ("require", "/etc/bundle.pem")
    with pytest.raises(AdapterMisconfigured, match="SSLMODE"):
        RdsIamAdapter.from_config({**CONFIG, "SSLMODE": "prefer"})


def test_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to sign with."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsDenied, match="no identity"):
        RdsIamAdapter.from_config(CONFIG).fetch()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"HOST": None}, "HOST: is required"),
        ({"HOST": "a,b"}, "HOST: expected one host"),
        ({"USERNAME": None}, "USERNAME: is required"),
        ({"PORT": 0}, "PORT"),
        ({"ENDPOINT": "https://x"}, "does not know: ENDPOINT"),
    ],
)
def test_settings_that_are_wrong(change: dict[str, Any], text: str) -> None:
    """Said before anything is signed."""
    with pytest.raises(AdapterMisconfigured, match=text):
        RdsIamAdapter.from_config({**CONFIG, **change})
