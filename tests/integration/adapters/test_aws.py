"""The adapter for AWS Secrets Manager, against moto's server and, for faults, scripted answers."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pg_secrets.aws import AwsAdapter
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.source import CredentialSource
from pg_secrets.testing.aws import KEYS, PENDING, REGION, SecretsManagerServer
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.process import free_port, frozen

pytestmark = pytest.mark.usefixtures("aws_identity")

RDS = {
    "engine": "postgres",
    "username": "app",
    "password": "s3cret",
    "host": "db.example",
    "port": "5433",
    "dbname": "shop",
}
EXPECTED = {
    "user": "app",
    "password": "s3cret",
    "host": "db.example",
    "port": 5433,
    "dbname": "shop",
}


@pytest.fixture
def store(aws_server: SecretsManagerServer) -> SecretsManagerServer:
    """A Secrets Manager for all tests, each with secrets of its own."""
    return aws_server


@pytest.fixture
def name() -> str:
    """A secret's name that no other test uses."""
    return f"database/{secrets.token_hex(4)}"


def adapter(place: SecretsManagerServer | str, secret: str, **config: Any) -> AwsAdapter:
    endpoint = place if isinstance(place, str) else place.endpoint
    return AwsAdapter.from_config(
        {"SECRET": secret, "REGION": REGION, "ENDPOINT": endpoint, **config}
    )


class TestContract(CredentialAdapterContract):
    """What all adapters keep."""

    @pytest.fixture(autouse=True)
    def _store(self, store: SecretsManagerServer) -> None:
        self.store = store

    def make_adapter(self) -> AwsAdapter:
        self.store.put("contract", RDS)
        return adapter(self.store, "contract")

    def expected(self) -> Mapping[str, Any]:
        return EXPECTED


class TestUnreachable(UnreachableStoreContract):
    """Nobody listens there."""

    def make_unreachable(self) -> AwsAdapter:
        return adapter(f"http://127.0.0.1:{free_port()}", "app")


# What a secret looks like ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "config", "expected"),
    [
        (RDS, {}, EXPECTED),
        (
            {"login": "me", "pw": "x y"},
            {"FIELDS": {"user": "login", "password": "pw"}},
            {"user": "me", "password": "x y"},
        ),
        ("only-a-password", {}, {"user": None, "password": "only-a-password"}),
        (b"from-bytes\n", {}, {"password": "from-bytes"}),
        (
            "postgresql://me:pw@db:5434/shop",
            {},
            {"user": "me", "password": "pw", "host": "db", "port": 5434, "dbname": "shop"},
        ),
        (b'\xef\xbb\xbf{"password": "with a BOM"}', {}, {"password": "with a BOM"}),
    ],
    ids=["RDS", "mapping", "bare", "binary", "url", "BOM"],
)
def test_forms_of_a_secret(
    store: SecretsManagerServer,
    name: str,
    value: Any,
    config: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    """JSON as RDS writes it, other keys, a bare password, bytes, a URL."""
    store.put(name, value)
    params = adapter(store, name, **config).fetch().connection_params()
    assert {key: params.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"username": "app"}, "password"),
        ('{"username": "app", "pass', "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ({**RDS, "port": "many"}, "port"),
        ({**RDS, "password": ""}, "empty"),
    ],
    ids=["no password", "half", "bytes", "port", "empty"],
)
def test_malformed_secrets(store: SecretsManagerServer, name: str, value: Any, text: str) -> None:
    """The error names the secret and what is wrong with it, never its value."""
    store.put(name, value)
    with pytest.raises(CredentialsInvalid, match=text) as caught:
        adapter(store, name).fetch()
    assert name in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_the_version_is_named(store: SecretsManagerServer, name: str) -> None:
    """A snapshot's version is AWS' own id."""
    version = store.put(name, RDS)
    assert adapter(store, name).fetch().version == version


def test_by_arn(store: SecretsManagerServer, name: str) -> None:
    """SECRET may be an ARN."""
    store.put(name, RDS)
    client = store.client()
    arn = client.describe_secret(SecretId=name)["ARN"]
    client.close()
    assert adapter(store, arn).fetch().user == "app"


def test_pinned_versions_and_stages(store: SecretsManagerServer, name: str) -> None:
    """VERSION_ID and VERSION_STAGE stay with what they name."""
    first = store.put(name, {"password": "first"})
    store.put(name, {"password": "second"})
    store.put(name, {"password": "third"}, stage=PENDING)
    assert adapter(store, name).fetch().password == "second"
    assert adapter(store, name, VERSION_ID=first).fetch().password == "first"
    assert adapter(store, name, VERSION_STAGE="AWSPREVIOUS").fetch().password == "first"
    assert adapter(store, name, VERSION_STAGE=PENDING).fetch().password == "third"


# Rotation ----------------------------------------------------------------------------------


def test_single_user_rotation(store: SecretsManagerServer, name: str) -> None:
    """The database changes first: what is pending is tried after the database has refused."""
    store.put(name, {"username": "app", "password": "old"})
    store.put(name, {"username": "app", "password": "new"}, stage=PENDING)
    source = CredentialSource(adapter(store, name, TRY_OTHER_STAGES=True), background=False)
    try:
        held = source.get()
        assert held.password == "old"  # nothing was refused yet
        source.rejected(held, "28P01")
        assert source.refresh().password == "new"
        store.promote(name)
        assert source.refresh().password == "new"
        assert source.generation == 2
        # And back: a rotation that failed after it had changed the database.
        source.rejected(source.get(), "28P01")
        assert source.refresh().password == "old"
    finally:
        source.close()


def test_without_the_option_no_other_stage_is_tried(store: SecretsManagerServer, name: str) -> None:
    """What is pending may never become current, so it is asked for only where that is wanted."""
    store.put(name, {"password": "old"})
    store.put(name, {"password": "new"}, stage=PENDING)
    reader = adapter(store, name)
    reader.rejected(reader.fetch())
    assert reader.fetch().password == "old"


def test_when_all_stages_were_refused_it_begins_again(
    store: SecretsManagerServer, name: str
) -> None:
    """A login that was refused a moment ago may be right by now."""
    store.put(name, {"password": "old"})
    store.put(name, {"password": "new"}, stage=PENDING)
    reader = adapter(store, name, TRY_OTHER_STAGES=True)
    passwords = []
    for _ in range(4):
        found = reader.fetch()
        passwords.append(found.password)
        reader.rejected(found)
    assert passwords == ["old", "new", "old", "new"]


def test_alternating_users(store: SecretsManagerServer, name: str) -> None:
    """With two users the name changes together with the password."""
    store.put(name, {**RDS, "username": "app", "password": "one"})
    source = CredentialSource(adapter(store, name), background=False)
    try:
        assert (source.get().user, source.get().password) == ("app", "one")
        store.put(name, {**RDS, "username": "app_clone", "password": "two"})
        changed = source.refresh()
        assert (changed.user, changed.password, changed.generation) == ("app_clone", "two", 2)
    finally:
        source.close()


def scripted(fault_server: ScriptedHttpServer, *answers: HttpAnswer) -> AwsAdapter:
    fault_server.script("POST", "/", *answers)
    return adapter(fault_server.address, "app", TIMEOUT=1)


@pytest.fixture
def fault_server() -> Iterator[ScriptedHttpServer]:
    """Answers what no Secrets Manager can be made to answer."""
    with ScriptedHttpServer() as server:
        yield server


VALUE = HttpAnswer(body={"SecretString": '{"password": "pw"}', "VersionId": "1"})


def test_the_announced_rotation(fault_server: ScriptedHttpServer) -> None:
    """The date of the next rotation is asked for once, and becomes the time to read again."""
    when = time.time() + 120
    described = HttpAnswer(body={"RotationEnabled": True, "NextRotationDate": when})
    reader = scripted(fault_server, VALUE, described, VALUE)
    assert reader.fetch().refresh_at == pytest.approx(when, abs=1)
    assert reader.fetch().refresh_at == pytest.approx(when, abs=1)
    assert fault_server.count("/") == 3


def test_no_right_to_describe(fault_server: ScriptedHttpServer) -> None:
    """Without DescribeSecret the TTL decides, and it is not asked for each time."""
    refusal = HttpAnswer(400, {"__type": "AccessDeniedException", "message": "no"})
    reader = scripted(fault_server, VALUE, refusal, VALUE)
    assert reader.fetch().refresh_at is None
    assert reader.fetch().refresh_at is None
    assert fault_server.count("/") == 3


def test_an_assumed_role(
    store: SecretsManagerServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROLE_ARN is assumed before the secret is asked for, and again before it ends."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.endpoint)
    store.put(name, RDS)
    now = time.time()
    config = {
        "SECRET": name,
        "REGION": REGION,
        "ENDPOINT": store.endpoint,
        "ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
        "EXTERNAL_ID": "tenant-1",
    }
    reader = AwsAdapter.from_config(config, clock=lambda: now)
    assert reader.fetch().user == "app"
    first = reader._client._client
    assert reader.fetch().user == "app"
    assert reader._client._client is first
    now += 3600
    assert reader.fetch().user == "app"
    assert reader._client._client is not first


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "ResourceNotFoundException", CredentialsNotFound),
        (400, "InvalidRequestException", CredentialsNotFound),
        (400, "InvalidParameterException", CredentialsInvalid),
        (400, "DecryptionFailure", CredentialsDenied),
        (500, "InternalServiceError", CredentialsUnavailable),
        (400, "AccessDeniedException", CredentialsDenied),
        (400, "ThrottlingException", CredentialsUnavailable),
        (400, "ExpiredTokenException", CredentialsDenied),
        (400, "UnrecognizedClientException", CredentialsDenied),
        (403, "InvalidSignatureException", CredentialsDenied),
        (503, "ServiceUnavailable", CredentialsUnavailable),
        (429, "Whatever", CredentialsUnavailable),
        (403, "Whatever", CredentialsDenied),
        (400, "Whatever", CredentialsInvalid),
    ],
)
def test_refusals(
    fault_server: ScriptedHttpServer, status: int, code: str, expected: type[CredentialsError]
) -> None:
    """Each code of AWS' is an error of the family that names the secret and the code."""
    body = {"__type": code, "message": "about it, password=hunter2hunter2"}
    reader = scripted(fault_server, HttpAnswer(status, body))
    with pytest.raises(expected, match=code) as caught:
        reader.fetch()
    assert type(caught.value) is expected
    assert "AWS secret app" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        HttpAnswer(200, "<html>a load balancer</html>"),
        HttpAnswer(502, "<html>a load balancer</html>"),
        HttpAnswer(200, b""),
        HttpAnswer(200, {}),
    ],
    ids=["html", "502", "empty", "nothing in it"],
)
def test_answers_that_are_none(fault_server: ScriptedHttpServer, answer: HttpAnswer) -> None:
    """What something before AWS answers is an error of the family too."""
    with pytest.raises((CredentialsUnavailable, CredentialsInvalid)):
        scripted(fault_server, answer).fetch()


def test_a_throttled_request_is_tried_again(fault_server: ScriptedHttpServer) -> None:
    """Once, by boto3; from then on the source decides."""
    throttled = HttpAnswer(400, {"__type": "ThrottlingException", "message": "slower"})
    reader = scripted(fault_server, throttled, VALUE)
    assert reader.fetch().password == "pw"


def test_frozen(name: str) -> None:
    """A server that takes the request and says nothing is given up after TIMEOUT, twice."""
    with SecretsManagerServer() as own:
        own.put(name, RDS)
        reader = adapter(own, name, TIMEOUT=0.3)
        assert reader.fetch().user == "app"
        with frozen(own.pid):
            begun = time.monotonic()
            with pytest.raises(CredentialsUnavailable, match=r"TIMEOUT, 0\.3 s"):
                reader.fetch()
            assert time.monotonic() - begun < 5
        assert reader.fetch().user == "app"


def test_a_secret_that_is_to_be_deleted(store: SecretsManagerServer, name: str) -> None:
    """As good as gone, and the message says why."""
    store.put(name, RDS)
    client = store.client()
    client.delete_secret(SecretId=name)
    client.close()
    with pytest.raises(CredentialsNotFound, match="deletion"):
        adapter(store, name).fetch()


def test_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3 finds no keys, that is said."""
    for key in KEYS:
        monkeypatch.delenv(key)
    with pytest.raises(CredentialsDenied, match="no identity"):
        adapter("http://127.0.0.1:1", "app").fetch()


def test_no_region_and_no_such_profile() -> None:
    """Settings that only boto3 can check are named when it does."""
    with pytest.raises(AdapterMisconfigured, match="REGION"):
        AwsAdapter.from_config({"SECRET": "app"}).fetch()
    with pytest.raises(AdapterMisconfigured, match="PROFILE"):
        AwsAdapter.from_config({"SECRET": "app", "PROFILE": "nobody"}).fetch()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "SECRET: is required"),
        ({"SECRET": "a", "VERSION_ID": "1", "VERSION_STAGE": "x"}, "VERSION_STAGE: excludes"),
        ({"SECRET": "a", "TRY_OTHER_STAGES": True, "VERSION_ID": "1"}, "TRY_OTHER_STAGES"),
        ({"SECRET": "a", "EXTERNAL_ID": "x"}, "together with ROLE_ARN"),
        ({"SECRET": "a", "ENDPOINT": "vpce-1.example"}, "ENDPOINT: expected a URL"),
        ({"SECRET": "a", "TIMEOUT": "soon"}, "TIMEOUT"),
        ({"SECRET": "a", "SECRET_NAME": "b"}, "does not know: SECRET_NAME"),
    ],
)
def test_settings_that_are_wrong(config: dict[str, Any], text: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(AdapterMisconfigured, match=text):
        AwsAdapter.from_config(config)


def test_nothing_is_imported_before_it_is_used() -> None:
    """boto3 is slow to import: neither the package nor another adapter does so."""
    code = (
        "import sys, pg_secrets; pg_secrets.credential_source('env');"
        "print([m for m in ('boto3', 'botocore', 'hvac', 'grpc', 'google') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_error_carries_nothing_of_the_request(fault_server: ScriptedHttpServer) -> None:
    """boto3's errors know the request's headers: its cause is another, with the code alone."""
    body = {"__type": "AccessDeniedException", "message": "no"}
    with pytest.raises(CredentialsDenied) as caught:
        scripted(fault_server, HttpAnswer(400, body)).fetch()
    cause = caught.value.__cause__
    assert type(cause) is RuntimeError
    assert cause.args == ("AccessDeniedException",)
    assert caught.value.__context__ is None
