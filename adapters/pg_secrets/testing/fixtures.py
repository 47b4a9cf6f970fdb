"""Servers and a clock as pytest fixtures: ``pytest_plugins = ["pg_secrets.testing.fixtures"]``.

A server runs once per session, except Redis, which every test gets anew. What is not installed is
skipped, with a sentence that says what to install; a server that is installed and does not start
is an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from pg_secrets.testing.aws import SecretsManagerServer
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.gcp import SecretManagerServer
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import ServerNotInstalled
from pg_secrets.testing.redis import RedisServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

Made = TypeVar("Made")


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until the test moves it."""
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL; restart it as you like, but leave it running."""
    with _made(PostgresServer) as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A database nobody else uses, dropped with all its roles afterwards."""
    with FreshDatabase(postgres_server) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def openbao_server() -> Iterator[OpenBaoServer]:
    """A running, unsealed Vault with the root token ``openbao_server.root_token``."""
    _need("openbao_server", "channels-pg-secrets[vault]", "hvac")
    with _made(OpenBaoServer) as server:
        yield server


@pytest.fixture
def vault_database(
    openbao_server: OpenBaoServer, database: FreshDatabase
) -> Iterator[DatabaseSecretsEngine]:
    """A database secrets engine with roles ``dynamic``, ``owner`` and ``static``."""
    with DatabaseSecretsEngine(openbao_server, database) as engine:
        engine.dynamic_role("dynamic")
        engine.dynamic_role("owner", member_of=database.owner.user)
        engine.static_role("static", database.login())
        yield engine


@pytest.fixture(scope="session")
def aws_server() -> Iterator[SecretsManagerServer]:
    """A running Secrets Manager of AWS; give each test secrets of its own."""
    _need("aws_server", "channels-pg-secrets[aws]", "boto3")
    _need("aws_server", "moto[server,secretsmanager]", "moto", "flask")
    with SecretsManagerServer() as server:
        yield server


@pytest.fixture(scope="session")
def gcp_server() -> Iterator[SecretManagerServer]:
    """A running Secret Manager of Google's; give each test secrets of its own."""
    package = "channels-pg-secrets[gcp]"
    _need("gcp_server", package, "google.cloud.secretmanager_v1", "google_crc32c", "grpc")
    with SecretManagerServer() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis that no other test uses."""
    _need("redis_server", "channels-pg-secrets[redis]", "redis")
    with _made(RedisServer) as server:
        yield server


def _made(server: Callable[[], Made]) -> Made:
    """Return a server that is not started yet, or skip where there is no program for it."""
    try:
        return server()
    except ServerNotInstalled as error:
        pytest.skip(str(error))


def _need(fixture: str, package: str, *modules: str) -> None:
    """Skip where a module is missing."""
    missing = [module for module in modules if not _found(module)]
    if missing:
        pytest.skip(f"{fixture} needs {' and '.join(missing)}: run pip install '{package}'")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
