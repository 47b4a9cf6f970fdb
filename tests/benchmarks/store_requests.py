"""How often a store is asked in a day, with every setting at its default.

One source per case, on a clock by which a day takes no time; somebody asks it once a second. The
stores are real where there is one to run here, and it is they who count, with one exception: what
is sent to OpenBao is counted where it leaves.
"""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import requests

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.command import CommandAdapter
from pg_secrets.env import EnvAdapter
from pg_secrets.files import FilesAdapter
from pg_secrets.source import CredentialSource
from pg_secrets.testing.clock import FakeClock

LOGIN = {"username": "app", "password": "secret"}
Count = Callable[[], int]


@dataclass(frozen=True)
class Case:
    """An adapter, where its login is, and how what it asks for is counted."""

    adapter: str
    what: str
    build: Callable[[ExitStack, FakeClock], tuple[CredentialAdapter, Count]]


def measure(hours: int) -> list[dict[str, Any]]:
    """Return for each case how often the store was asked in an hour, on average."""
    return [counted(case, hours) for case in CASES]


def counted(case: Case, hours: int) -> dict[str, Any]:
    """Return how often the store was asked in an hour of so many."""
    clock = FakeClock()
    with ExitStack() as stack:
        adapter, requests_so_far = case.build(stack, clock)
        # By itself it would be refreshed at the same moments, in another thread.
        source = CredentialSource(adapter, background=False, clock=clock, random=Random(1))
        before = requests_so_far()
        for _ in range(hours * 3600):
            source.get()
            clock.advance(1.0)
        stats, asked = source.stats(), requests_so_far() - before
        source.close()
    return {
        "adapter": case.adapter,
        "what": case.what,
        "fetches": stats["fetches"] / hours,
        "renewals": stats["renewed"] / hours,
        "requests": asked / hours,
    }


# The cases ------------------------------------------------------------------------------------


def _nobody() -> int:
    return 0


def _env(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    environ = {"PGUSER": "app", "PGPASSWORD": "secret"}
    return EnvAdapter.from_config({}, environ=environ), _nobody


def _files(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    folder = _folder(stack)
    for name, value in LOGIN.items():
        (folder / name).write_text(value)
    return FilesAdapter.from_config({"DIRECTORY": str(folder)}), _nobody


def _command(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    runs = _folder(stack) / "runs"
    runs.touch()
    script = f"echo run >> {runs}; echo '{json.dumps(LOGIN)}'"
    adapter = CommandAdapter.from_config({"COMMAND": ["/bin/sh", "-c", script]}, clock=clock.time)
    return adapter, lambda: len(runs.read_text().splitlines())


def _vault(**secret: str) -> Callable[[ExitStack, FakeClock], tuple[CredentialAdapter, Count]]:
    def build(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
        from pg_secrets.testing.database import FreshDatabase
        from pg_secrets.testing.openbao import OpenBaoServer
        from pg_secrets.testing.postgres import PostgresServer
        from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
        from pg_secrets.vault import VaultAdapter

        openbao = stack.enter_context(OpenBaoServer())
        database = stack.enter_context(FreshDatabase(stack.enter_context(PostgresServer())))
        engine = stack.enter_context(DatabaseSecretsEngine(openbao, database))
        engine.dynamic_role("app")
        engine.static_role("fixed", database.login())
        engine.client.secrets.kv.v2.create_or_update_secret("app", secret=LOGIN)
        place = {} if "KV" in secret else {"MOUNT": engine.mount}
        config = {"ADDRESS": openbao.address, "AUTH": _approle(engine.client), **place, **secret}
        return VaultAdapter.from_config(config, clock=clock.time), stack.enter_context(_sent())

    return build


def _approle(client: Any) -> dict[str, str]:
    """Return the settings of a way in whose tokens live an hour, for months if they are renewed."""
    rules = 'path "*" { capabilities = ["read", "update"] }'
    client.sys.create_or_update_policy("app", rules)
    client.sys.enable_auth_method("approle")
    role = client.auth.approle
    role.create_or_update_approle("app", token_policies=["app"], token_ttl="1h")
    found = {
        "ROLE_ID": role.read_role_id("app")["data"]["role_id"],
        "SECRET_ID": role.generate_secret_id("app")["data"]["secret_id"],
    }
    return {"METHOD": "approle", **found}


def _aws(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    from pg_secrets.aws import AwsAdapter
    from pg_secrets.testing.aws import REGION, SecretsManagerServer

    _with_aws_keys(stack)
    server = stack.enter_context(SecretsManagerServer())
    server.put("app", LOGIN)
    config = {"SECRET": "app", "REGION": REGION, "ENDPOINT": server.endpoint}
    return AwsAdapter.from_config(config, clock=clock.time), server.requests


def _rds_iam(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    from pg_secrets.rds_iam import RdsIamAdapter
    from pg_secrets.testing.aws import REGION

    _with_aws_keys(stack)
    config = {"HOST": "db.example", "USERNAME": "app", "REGION": REGION}
    return RdsIamAdapter.from_config(config, clock=clock.time), stack.enter_context(_sent())


def _gcp(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    from pg_secrets.gcp import GcpAdapter
    from pg_secrets.testing.gcp import PROJECT, SecretManagerServer

    server = stack.enter_context(SecretManagerServer())
    server.put("app", LOGIN)
    config = {"SECRET": "app", "PROJECT": PROJECT, "ENDPOINT": server.endpoint}
    return GcpAdapter.from_config(config), server.requests


def _oauth(stack: ExitStack, clock: FakeClock) -> tuple[CredentialAdapter, Count]:
    from pg_secrets.oauth import OAuthAdapter
    from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
    from tests.integration.adapters.certificate import self_signed

    certificate, key = self_signed(_folder(stack))
    stack.enter_context(_environment(REQUESTS_CA_BUNDLE=str(certificate)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = stack.enter_context(ScriptedHttpServer(tls=context))
    token = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}
    server.script("POST", "/token", HttpAnswer(body=token))
    client = {"CLIENT_ID": "app", "CLIENT_SECRET": "cl1ent"}
    config = {"TOKEN_URL": f"{server.address}/token", **client}
    return OAuthAdapter.from_config(config, clock=clock.time), lambda: len(server.requests)


CASES = (
    Case("env", "variables", _env),
    Case("files", "a mounted secret", _files),
    Case("command", "a program that prints no end", _command),
    Case("vault", "dynamic role, lease and token of 1 h", _vault(ROLE="app")),
    Case("vault", "static role, token of 1 h", _vault(STATIC_ROLE="fixed")),
    Case("vault", "KV 2, token of 1 h", _vault(KV="app")),
    Case("aws", "a secret that is not rotated", _aws),
    Case("rds_iam", "tokens, signed here", _rds_iam),
    Case("gcp", "a secret", _gcp),
    Case("oauth", "tokens of 1 h", _oauth),
)


# Helpers --------------------------------------------------------------------------------------


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="credentials-")))


def _with_aws_keys(stack: ExitStack) -> None:
    from pg_secrets.testing.aws import KEYS

    nothing = "/nonexistent/aws"
    files = {"AWS_CONFIG_FILE": nothing, "AWS_SHARED_CREDENTIALS_FILE": nothing}
    stack.enter_context(_environment(**KEYS, **files, AWS_EC2_METADATA_DISABLED="true"))


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _sent() -> Iterator[Count]:
    """Count what ``requests`` sends, which is what hvac speaks HTTP with."""
    send, count = requests.Session.send, [0]

    def counted(session: requests.Session, *args: Any, **kwargs: Any) -> requests.Response:
        count[0] += 1
        return send(session, *args, **kwargs)

    with patch.object(requests.Session, "send", counted):
        yield lambda: count[0]
