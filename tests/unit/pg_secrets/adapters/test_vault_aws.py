"""Vault's AWS login: a request to STS, signed here, checked by signing it again with the same keys.

OpenBao has no such method: what answers are the shapes that Vault's documentation gives.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import logging
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled, CredentialsDenied
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.vault import VaultAdapter

LOGIN = "/v1/auth/aws/login"
SECRET_KEY = "canary-secret-key"
SESSION_TOKEN = "canary-session-token"
AUTH = {"METHOD": "aws", "ROLE": "app"}
#: Vault's answer to a login (HTTP API, AWS auth method, "Login"), of the type IAM.
ANSWER = {
    "auth": {
        "client_token": "hvs.from-aws",
        "accessor": "hmac-accessor",
        "token_type": "service",
        "policies": ["default", "dev"],
        "token_policies": ["default", "dev"],
        "metadata": {
            "account_id": "123456789012",
            "auth_type": "iam",
            "canonical_arn": "arn:aws:iam::123456789012:role/app",
            "client_arn": "arn:aws:sts::123456789012:assumed-role/app/i-1",
            "client_user_id": "AROAEXAMPLE",
            "inferred_entity_id": "",
            "inferred_entity_type": "",
            "role_id": "0e1bc9a6-0000-0000-0000-000000000000",
        },
        "lease_duration": 1800,
        "renewable": True,
        "entity_id": "",
        "orphan": True,
    }
}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment, and nothing of what a developer's AWS configuration says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The region of the machine is not the one that Vault asks in.
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent/aws")


def adapter(vault: ScriptedHttpServer, **auth: Any) -> VaultAdapter:
    secret = {"data": {"data": {"password": "pw"}, "metadata": {"version": 1}}}
    vault.script("GET", "/v1/secret/data/app", HttpAnswer(body=secret))
    return VaultAdapter.from_config(
        {"ADDRESS": vault.address, "KV": "app", "AUTH": {**AUTH, **auth}}
    )


def login(vault: ScriptedHttpServer, **auth: Any) -> dict[str, Any]:
    """Log in, and return what Vault was sent, the request to STS taken out of its wrapping."""
    vault.script("POST", LOGIN, HttpAnswer(body=ANSWER))
    assert adapter(vault, **auth).fetch().password == "pw"
    assert vault.requests[0].headers.get("x-vault-token") is None
    assert vault.requests[-1].headers["x-vault-token"] == "hvs.from-aws"
    sent = dict(vault.requests[0].json())
    for part in ("url", "body", "headers"):
        sent[part] = b64decode(sent.pop(f"iam_request_{part}")).decode()
    return {**sent, "headers": json.loads(sent["headers"])}


def signature(url: str, body: str, headers: Mapping[str, str]) -> str:
    """AWS Signature Version 4 of a POST (AWS General Reference), with the date that it names."""
    given = {name.lower(): value for name, value in headers.items()}
    given["host"] = urlsplit(url).netloc
    scope, signed, _ = (part.partition("=")[2] for part in given["authorization"].split(", "))
    _, date, region, service, last = scope.split("/")
    lines = "".join(f"{name}:{given[name].strip()}\n" for name in signed.split(";"))
    hashed = hashlib.sha256(body.encode()).hexdigest()
    canonical = hashlib.sha256(f"POST\n/\n\n{lines}\n{signed}\n{hashed}".encode()).hexdigest()
    where = f"{date}/{region}/{service}/{last}"
    to_sign = f"AWS4-HMAC-SHA256\n{given['x-amz-date']}\n{where}\n{canonical}"
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (date, region, service, last):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def test_what_is_sent(vault: ScriptedHttpServer) -> None:
    """The role, and the question "who am I?" to STS' global endpoint, with a right signature."""
    sent = login(vault)
    headers = sent.pop("headers")
    assert sent == {
        "role": "app",
        "iam_http_request_method": "POST",
        "url": "https://sts.amazonaws.com/",
        "body": "Action=GetCallerIdentity&Version=2011-06-15",
    }
    assert "AKIDEXAMPLE/" in headers["Authorization"]
    assert "/us-east-1/sts/aws4_request" in headers["Authorization"]
    signed_for = signature(sent["url"], sent["body"], headers)
    assert headers["Authorization"].endswith(f"Signature={signed_for}")
    date = datetime.datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    age = datetime.datetime.now(datetime.timezone.utc) - date
    assert abs(age.total_seconds()) < 60


def test_what_is_sent_is_no_key(
    vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret key stays here; a session's token is part of the question, and of no log."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    with caplog.at_level(logging.DEBUG):
        sent = login(vault)
    assert sent["headers"]["X-Amz-Security-Token"] == SESSION_TOKEN
    assert SECRET_KEY not in json.dumps(sent)
    assert "canary" not in caplog.text


def test_server_id(vault: ScriptedHttpServer) -> None:
    """The header that says which Vault a question is meant for is signed with the rest."""
    headers = login(vault, SERVER_ID="vault.example")["headers"]
    assert headers["X-Vault-AWS-IAM-Server-ID"] == "vault.example"
    assert "x-vault-aws-iam-server-id" in headers["Authorization"]


@pytest.mark.parametrize(
    ("where", "url", "region"),
    [
        ({"REGION": "eu-central-1"}, "https://sts.eu-central-1.amazonaws.com/", "eu-central-1"),
        ({"REGION": "cn-north-1"}, "https://sts.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
        (
            {"REGION": "eu-west-1", "ENDPOINT": "https://vpce-1.example"},
            "https://vpce-1.example/",
            "eu-west-1",
        ),
    ],
)
def test_other_endpoints(
    vault: ScriptedHttpServer, where: dict[str, str], url: str, region: str
) -> None:
    """A mount that asks another STS gets a question that is signed for it."""
    sent = login(vault, **where)
    assert sent["url"] == url
    assert f"/{region}/sts/" in sent["headers"]["Authorization"]
    assert sent["headers"]["Authorization"].endswith(signature(url, sent["body"], sent["headers"]))


def test_each_login_is_signed_anew(
    vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that changed meanwhile are used at the next login."""
    vault.script("POST", LOGIN, HttpAnswer(body=ANSWER))
    reader = adapter(vault)
    reader.fetch()
    vault.script("GET", "/v1/secret/data/app", HttpAnswer(403, {"errors": ["permission denied"]}))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECOND")
    with pytest.raises(CredentialsDenied):
        reader.fetch()
    logins = [request.json() for request in vault.requests if request.path == LOGIN]
    signed = [b64decode(login["iam_request_headers"]).decode() for login in logins]
    assert ["AKIDSECOND" in headers for headers in signed] == [False, True]


ASSUMED = f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><Credentials><AccessKeyId>ASIAASSUMED</AccessKeyId>
<SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>{SESSION_TOKEN}</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>
</AssumeRoleResponse>"""


def test_an_assumed_role(vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ROLE_ARN the question is signed with the keys of the role that was assumed for it."""
    with ScriptedHttpServer() as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.address)
        sts.script("POST", "/", HttpAnswer(body=ASSUMED, headers={"Content-Type": "text/xml"}))
        sent = login(vault, ROLE_ARN="arn:aws:iam::123456789012:role/app")
    assert b"RoleArn=arn" in sts.requests[0].body
    headers = sent["headers"]
    assert "ASIAASSUMED/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == SESSION_TOKEN
    assert headers["Authorization"].endswith(signature(sent["url"], sent["body"], headers))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            HttpAnswer(400, {"errors": ['entry for role "app" not found']}),
            'entry for role "app" not found',
        ),
        (
            HttpAnswer(400, {"errors": ['missing header "X-Vault-AWS-IAM-Server-ID"']}),
            "Server-ID",
        ),
        (HttpAnswer(403, {"errors": ["permission denied"]}), "check AUTH's MOUNT"),
        (
            HttpAnswer(
                400,
                {"errors": ["error making upstream request: received error code 403 from STS"]},
            ),
            "403 from STS",
        ),
    ],
)
def test_refusals(vault: ScriptedHttpServer, answer: HttpAnswer, text: str) -> None:
    """What Vault, or STS behind it, refuses is a denial in their words, without what was sent."""
    vault.script("POST", LOGIN, answer)
    with pytest.raises(CredentialsDenied, match=text) as caught:
        adapter(vault).fetch()
    assert "canary" not in str(caught.value)


def test_no_identity(vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys there is nothing to sign with, and nothing is sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsDenied, match="auth/aws: no identity"):
        adapter(vault).fetch()
    assert vault.requests == []


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ({"ROLE": 7}, "ROLE: found an int"),
        ({"SERVER": "x"}, "SERVER"),
        ({"ENDPOINT": "sts.example"}, "ENDPOINT: expected a URL"),
        ({"EXTERNAL_ID": "x"}, "EXTERNAL_ID: is only of use together with ROLE_ARN"),
    ],
)
def test_settings_that_are_wrong(
    vault: ScriptedHttpServer, auth: dict[str, Any], text: str
) -> None:
    """Said before anything is sent."""
    with pytest.raises(AdapterMisconfigured, match=text):
        adapter(vault, **auth)


def test_profile_that_is_not_there(vault: ScriptedHttpServer) -> None:
    """A profile that boto3 does not know is named."""
    with pytest.raises(AdapterMisconfigured, match="nobody"):
        adapter(vault, PROFILE="nobody").fetch()


def test_missing_boto3(vault: ScriptedHttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the error names the pip command."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(AdapterNotInstalled, match=r"pip install 'channels-pg-secrets\[aws\]'"):
        adapter(vault)


def test_boto3_is_imported_only_when_used() -> None:
    """Another way in does without boto3 and Google's packages."""
    code = (
        "import sys; from pg_secrets.vault import VaultAdapter;"
        "VaultAdapter.from_config({'ADDRESS': 'https://v', 'KV': 'x'});"
        "print({'boto3', 'botocore', 'google.auth'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"
