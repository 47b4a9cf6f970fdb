"""Vaults that a test may seal, freeze or speak TLS to, ways in, and servers that are scripted."""

from __future__ import annotations

import secrets
import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.testing.aws import KEYS
from pg_secrets.testing.http import ScriptedHttpServer
from pg_secrets.testing.openbao import OpenBaoServer, find_binary
from pg_secrets.testing.process import ServerProcess, base_environment, free_port
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

# Tests here import their helpers by tests.integration.adapters.
sys.path.append(str(Path(__file__).parents[3]))

from tests.integration.adapters.certificate import self_signed

AppRole = Callable[..., dict[str, Any]]


@pytest.fixture
def own_openbao() -> Iterator[OpenBaoServer]:
    """A Vault that no other test uses."""
    with OpenBaoServer() as server:
        yield server


@pytest.fixture
def approle(vault_database: DatabaseSecretsEngine) -> Iterator[AppRole]:
    """Call it for the AUTH setting of a new AppRole that may read the database engine's mount."""
    client, mount = vault_database.client, f"approle-{secrets.token_hex(4)}"
    client.sys.enable_auth_method("approle", path=mount)
    rule = f'path "{vault_database.mount}/*" {{ capabilities = ["read"] }}'
    rule += '\npath "sys/leases/revoke" { capabilities = ["update"] }'
    client.sys.create_or_update_policy(mount, rule)

    def create(**settings: Any) -> dict[str, Any]:
        name = secrets.token_hex(4)
        client.auth.approle.create_or_update_approle(
            name, token_policies=[mount], mount_point=mount, **settings
        )
        role_id = client.auth.approle.read_role_id(name, mount_point=mount)["data"]["role_id"]
        answer = client.auth.approle.generate_secret_id(name, mount_point=mount)
        secret_id = answer["data"]["secret_id"]
        return {"METHOD": "approle", "MOUNT": mount, "ROLE_ID": role_id, "SECRET_ID": secret_id}

    yield create
    client.sys.disable_auth_method(mount)


@pytest.fixture
def tls_openbao(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a Vault that speaks TLS, and the file with its CA's certificate."""
    port = free_port()
    certificates = tmp_path / "tls"
    certificates.mkdir()
    ca = certificates / "vault-ca.pem"
    command: list[str | Path] = [find_binary(), "server", "-dev", "-dev-no-store-token"]
    command += ["-dev-root-token-id=root", f"-dev-listen-address=127.0.0.1:{port}"]
    command += ["-dev-tls", f"-dev-tls-cert-dir={certificates}"]
    process = ServerProcess(
        command,
        directory=tmp_path,
        log=tmp_path / "log",
        environment=base_environment(HOME=str(tmp_path)),
        stop_signal=signal.SIGTERM,
    )
    address = f"https://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            context = ssl.create_default_context(cafile=str(ca))
            with urllib.request.urlopen(f"{address}/v1/sys/health", timeout=1, context=context):
                return True
        except (urllib.error.URLError, OSError):
            return False

    try:
        process.wait_until(answers, timeout=30, name="OpenBao with TLS")
        yield address, ca
    finally:
        process.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def http_server() -> Iterator[ScriptedHttpServer]:
    """A server that a test tells what to answer."""
    with ScriptedHttpServer() as server:
        yield server


@pytest.fixture
def tls_server(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedHttpServer]:
    """A server over TLS that requests trusts, and that a test tells what to answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with ScriptedHttpServer(tls=context) as server:
        yield server


@pytest.fixture
def aws_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment, and nothing of what a developer's AWS configuration says."""
    for name, value in {**KEYS, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent/aws")
