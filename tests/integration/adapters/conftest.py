"""Vaults that a test may seal, freeze or speak TLS to, and a way in by AppRole."""

from __future__ import annotations

import secrets
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.testing.openbao import OpenBaoServer, find_binary
from pg_secrets.testing.process import ServerProcess, base_environment, free_port
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

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
