"""The adapter for Google's Secret Manager, against a real gRPC server and, over REST, answers."""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.gcp import GcpAdapter
from pg_secrets.gcp.adapter import SecretVersion
from pg_secrets.options import Options
from pg_secrets.source import CredentialSource
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract
from pg_secrets.testing.gcp import PROJECT, SecretManagerServer
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.process import free_port, frozen

LOGIN = {"username": "app", "password": "s3cret", "host": "db.example", "port": 5433}
EXPECTED = {"user": "app", "password": "s3cret", "host": "db.example", "port": 5433}


@pytest.fixture
def store(gcp_server: SecretManagerServer) -> Iterator[SecretManagerServer]:
    """The Secret Manager of all tests, well again afterwards."""
    yield gcp_server
    gcp_server.fail(None)
    gcp_server.corrupt(False)


@pytest.fixture
def name() -> str:
    """A secret's name that no other test uses."""
    return f"database-{secrets.token_hex(4)}"


@pytest.fixture
def reading() -> Iterator[list[GcpAdapter]]:
    """Adapters to close at the end: an open channel keeps gRPC's threads."""
    made: list[GcpAdapter] = []
    yield made
    for adapter in made:
        adapter.close()


Reading = list[GcpAdapter]


def adapter(place: str, secret: str, made: Reading, **config: Any) -> GcpAdapter:
    settings = {"SECRET": secret, "PROJECT": PROJECT, "ENDPOINT": place, "TIMEOUT": 2, **config}
    made.append(GcpAdapter.from_config(settings))
    return made[-1]


class TestContract(CredentialAdapterContract):
    """What all adapters keep."""

    @pytest.fixture(autouse=True)
    def _store(self, gcp_server: SecretManagerServer) -> None:
        self.store = gcp_server

    def make_adapter(self) -> GcpAdapter:
        self.store.put("contract", LOGIN)
        return adapter(self.store.endpoint, "contract", [])

    def expected(self) -> Mapping[str, Any]:
        return EXPECTED


class TestUnreachable(UnreachableStoreContract):
    """Nobody listens there."""

    def make_unreachable(self) -> GcpAdapter:
        return adapter(f"http://127.0.0.1:{free_port()}", "app", [], TIMEOUT=0.5)


# What a secret looks like ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "config", "expected"),
    [
        (LOGIN, {}, EXPECTED),
        ({"pw": "x y"}, {"FIELDS": {"password": "pw"}}, {"password": "x y"}),
        ("only-a-password\n", {}, {"user": None, "password": "only-a-password"}),
        ("postgresql://me:pw@db/shop", {}, {"user": "me", "password": "pw", "dbname": "shop"}),
        (b'\xef\xbb\xbf{"password": "with a BOM"}', {}, {"password": "with a BOM"}),
    ],
    ids=["json", "mapping", "bare", "url", "BOM"],
)
def test_forms_of_a_secret(
    store: SecretManagerServer,
    name: str,
    reading: Reading,
    value: Any,
    config: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    """JSON, other keys, a bare password, a URL."""
    store.put(name, value)
    params = adapter(store.endpoint, name, reading, **config).fetch().connection_params()
    assert {key: params.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"username": "app"}, "password"),
        ('{"username": "app", "pass', "not valid JSON"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "empty"),
    ],
    ids=["no password", "half", "bytes", "empty"],
)
def test_malformed_secrets(
    store: SecretManagerServer, name: str, reading: Reading, value: Any, text: str
) -> None:
    """The error names the secret and what is wrong with it."""
    store.put(name, value)
    with pytest.raises(CredentialsInvalid, match=text) as caught:
        adapter(store.endpoint, name, reading).fetch()
    assert name in str(caught.value)


def test_versions(store: SecretManagerServer, name: str, reading: Reading) -> None:
    """The latest, a number, an alias; a snapshot's version is the number."""
    store.put(name, {"password": "first"})
    store.put(name, {"password": "second"})
    store.alias(name, "stable", 1)
    first, second = ("first", "1"), ("second", "2")
    for version, expected in ((None, second), (1, first), ("stable", first)):
        found = adapter(store.endpoint, name, reading, VERSION=version).fetch()
        assert (found.password, found.version) == expected


def test_a_rotation(store: SecretManagerServer, name: str, reading: Reading) -> None:
    """A new version is another generation."""
    store.put(name, {"username": "app", "password": "one"})
    source = CredentialSource(adapter(store.endpoint, name, reading), background=False)
    try:
        assert source.get().password == "one"
        store.put(name, {"username": "app", "password": "two"})
        changed = source.refresh()
        assert (changed.password, changed.version, changed.generation) == ("two", "2", 2)
    finally:
        source.close()


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_version_that_is_switched_off(
    store: SecretManagerServer, name: str, reading: Reading, state: str
) -> None:
    """Google's ``latest`` does not fall back to one that is on."""
    store.put(name, LOGIN)
    store.put(name, LOGIN)
    store.switch_off(name, 2, state)
    with pytest.raises(CredentialsNotFound, match=state):
        adapter(store.endpoint, name, reading).fetch()
    assert adapter(store.endpoint, name, reading, VERSION=1).fetch().user == "app"


def test_a_damaged_value(store: SecretManagerServer, name: str, reading: Reading) -> None:
    """What does not fit its checksum is not used."""
    store.put(name, LOGIN)
    store.corrupt(True)
    with pytest.raises(CredentialsUnavailable, match="checksum"):
        adapter(store.endpoint, name, reading).fetch()


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("NOT_FOUND", CredentialsNotFound),
        ("PERMISSION_DENIED", CredentialsDenied),
        ("UNAUTHENTICATED", CredentialsDenied),
        ("FAILED_PRECONDITION", CredentialsNotFound),
        ("INVALID_ARGUMENT", CredentialsInvalid),
        ("RESOURCE_EXHAUSTED", CredentialsUnavailable),
        ("UNAVAILABLE", CredentialsUnavailable),
        ("DEADLINE_EXCEEDED", CredentialsUnavailable),
        ("INTERNAL", CredentialsUnavailable),
        ("ABORTED", CredentialsUnavailable),
        ("CANCELLED", CredentialsUnavailable),
        ("UNKNOWN", CredentialsUnavailable),
        ("UNIMPLEMENTED", CredentialsUnavailable),
    ],
)
def test_refusals(
    store: SecretManagerServer,
    name: str,
    reading: Reading,
    code: str,
    expected: type[CredentialsError],
) -> None:
    """Each status is an error of the family that names the secret, in time and without secrets."""
    store.put(name, LOGIN)
    store.fail(code, "about it, password=hunter2hunter2")
    begun = time.monotonic()
    with pytest.raises(expected) as caught:
        adapter(store.endpoint, name, reading).fetch()
    assert type(caught.value) is expected
    assert time.monotonic() - begun < 6
    assert f"GCP secret projects/{PROJECT}/secrets/{name}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


def test_frozen(name: str, reading: Reading) -> None:
    """A server that says nothing is given up after TIMEOUT, and used again later."""
    with SecretManagerServer() as own:
        own.put(name, LOGIN)
        reader = adapter(own.endpoint, name, reading, TIMEOUT=0.5)
        assert reader.fetch().user == "app"
        with frozen(own.pid):
            begun = time.monotonic()
            with pytest.raises(CredentialsUnavailable, match=r"TIMEOUT, 0\.5 s"):
                reader.fetch()
            assert time.monotonic() - begun < 3
        assert reader.fetch().user == "app"


def test_after_a_fork_and_a_close(store: SecretManagerServer, name: str, reading: Reading) -> None:
    """The child's first fetch opens a channel of its own, as does one after the end."""
    store.put(name, LOGIN)
    reader = adapter(store.endpoint, name, reading)
    first = reader.fetch()
    kept = reader._client
    reader.forked()
    assert reader.fetch().fingerprint == first.fingerprint
    assert reader._client is not kept
    kept.transport.close()


# REST --------------------------------------------------------------------------------------


@pytest.fixture
def rest() -> Iterator[ScriptedHttpServer]:
    """Answers as Secret Manager does over HTTP."""
    with ScriptedHttpServer() as running:
        yield running


PATH = f"/v1/projects/{PROJECT}/secrets/app/versions/latest:access"


def value(data: bytes, checksum: int | None = None) -> HttpAnswer:
    payload = {"data": b64encode(data).decode()}
    if checksum is not None:
        payload["dataCrc32c"] = str(checksum)
    return HttpAnswer(body={"name": "projects/1/secrets/app/versions/7", "payload": payload})


def over_rest(rest: ScriptedHttpServer, reading: Reading, *answers: HttpAnswer) -> GcpAdapter:
    rest.script("GET", PATH, *answers)
    return adapter(rest.address, "app", reading, TRANSPORT="rest")


def test_rest(rest: ScriptedHttpServer, reading: Reading) -> None:
    """The same over HTTP. The checksum of "pw" is known: CRC32C by any other implementation."""
    checksum = _crc32c(b"pw")
    found = over_rest(rest, reading, value(b"pw", checksum)).fetch()
    assert (found.password, found.version) == ("pw", "7")
    with pytest.raises(CredentialsUnavailable, match="checksum"):
        over_rest(rest, reading, value(b"pw", checksum + 1)).fetch()
    assert over_rest(rest, reading, value(b"pw")).fetch().password == "pw"


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit: RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _refusal(status: int, word: str, text: str = "no") -> HttpAnswer:
    return HttpAnswer(status, {"error": {"code": status, "status": word, "message": text}})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (_refusal(403, "PERMISSION_DENIED"), CredentialsDenied),
        (_refusal(401, "UNAUTHENTICATED"), CredentialsDenied),
        (_refusal(404, "NOT_FOUND"), CredentialsNotFound),
        (_refusal(400, "FAILED_PRECONDITION", "is in DISABLED state."), CredentialsNotFound),
        (_refusal(400, "INVALID_ARGUMENT"), CredentialsInvalid),
        (_refusal(429, "RESOURCE_EXHAUSTED"), CredentialsUnavailable),
        (_refusal(500, "INTERNAL"), CredentialsUnavailable),
        (HttpAnswer(502, "<html>a load balancer</html>"), CredentialsUnavailable),
    ],
    ids=["403", "401", "404", "disabled", "400", "429", "500", "html"],
)
def test_refusals_over_rest(
    rest: ScriptedHttpServer,
    reading: Reading,
    answer: HttpAnswer,
    expected: type[CredentialsError],
) -> None:
    """States of HTTP come as other classes of Google's, and as the same of ours."""
    with pytest.raises(expected) as caught:
        over_rest(rest, reading, answer).fetch()
    assert type(caught.value) is expected


def test_nobody_there_over_rest(reading: Reading) -> None:
    """A refused connection is no error of Google's."""
    place = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CredentialsUnavailable):
        adapter(place, "app", reading, TRANSPORT="rest").fetch()


# Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"SECRET": "app", "PROJECT": "p"}, "projects/p/secrets/app/versions/latest"),
        ({"SECRET": "app", "PROJECT": "p", "VERSION": 3}, "projects/p/secrets/app/versions/3"),
        ({"SECRET": "projects/p/secrets/app"}, "projects/p/secrets/app/versions/latest"),
        (
            {"SECRET": "projects/p/secrets/app/versions/2"},
            "projects/p/secrets/app/versions/2",
        ),
        (
            {"SECRET": "app", "PROJECT": "p", "LOCATION": "europe-west3"},
            "projects/p/locations/europe-west3/secrets/app/versions/latest",
        ),
        (
            {"SECRET": "projects/p/locations/l/secrets/app", "VERSION": "stable"},
            "projects/p/locations/l/secrets/app/versions/stable",
        ),
    ],
)
def test_paths(config: dict[str, Any], path: str) -> None:
    """A name with a project, or a whole path, global or regional."""
    assert SecretVersion.from_options(Options(config, adapter="gcp")).path == path


def test_the_project_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """GOOGLE_CLOUD_PROJECT is the default."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "theirs")
    found = SecretVersion.from_options(Options({"SECRET": "app"}, adapter="gcp"))
    assert found.project == "theirs"


def test_a_region_has_its_own_endpoint() -> None:
    """Regional secrets are not known at the global one."""
    config = {"SECRET": "app", "PROJECT": "p", "LOCATION": "europe-west3"}
    how = GcpAdapter.from_config(config)._how()
    host = how["client_options"]["api_endpoint"]
    assert host == "secretmanager.europe-west3.rep.googleapis.com"


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "SECRET: is required"),
        ({"SECRET": "app"}, "PROJECT: is required"),
        ({"SECRET": "projects/p/app"}, "SECRET: expected a name, or a path"),
        ({"SECRET": "a b", "PROJECT": "p"}, "SECRET: expected letters"),
        ({"SECRET": "projects/p/secrets/a", "PROJECT": "p"}, "PROJECT: is given, and stands"),
        ({"SECRET": "a", "PROJECT": "p", "VERSION": 0}, "VERSION"),
        ({"SECRET": "a", "PROJECT": "p", "VERSION": "a/b"}, "VERSION: expected a number"),
        ({"SECRET": "a", "PROJECT": "p", "ENDPOINT": "https://x/y"}, "ENDPOINT: expected host"),
        ({"SECRET": "a", "PROJECT": "p", "TRANSPORT": "grcp"}, "TRANSPORT"),
        ({"SECRET": "a", "PROJECT": "p", "NAME": "b"}, "does not know: NAME"),
    ],
)
def test_settings_that_are_wrong(
    config: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before anything is sent."""
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(AdapterMisconfigured, match=text):
        GcpAdapter.from_config(config)


def test_no_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there are no Application Default Credentials, that is said; a broken file is named."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    config = {"SECRET": "app", "PROJECT": "p"}
    with pytest.raises(CredentialsDenied, match="no identity"):
        GcpAdapter.from_config(config).fetch()
    broken = tmp_path / "broken.json"
    broken.write_text('{"type": "service_account"}')
    for file, why in ((broken, "no service account's key"), (tmp_path / "none", "No such file")):
        with pytest.raises(AdapterMisconfigured, match=f"CREDENTIALS_FILE.*{why}"):
            GcpAdapter.from_config({**config, "CREDENTIALS_FILE": str(file)}).fetch()
