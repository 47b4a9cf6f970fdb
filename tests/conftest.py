"""Real servers for the tests: one of each per worker, one database per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import forget_client_settings
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

forget_client_settings()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "faults under load (tests/chaos)")
    group.addoption(
        "--chaos",
        choices=("short", "long"),
        help="how often faults strike; by default long where nothing else than tests/chaos is run",
    )
    group.addoption("--chaos-report", metavar="FILE", help="write the figures there, in Markdown")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL; restart it as you like, but leave it running."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A database nobody else uses, dropped with all its roles afterwards."""
    with FreshDatabase(postgres_server) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBaoServer]:
    """A running, unsealed Vault with the root token ``openbao.root_token``."""
    with OpenBaoServer() as server:
        yield server


@pytest.fixture
def vault_database(
    openbao: OpenBaoServer, database: FreshDatabase
) -> Iterator[DatabaseSecretsEngine]:
    """A database secrets engine with roles ``dynamic``, ``owner`` and ``static``."""
    with DatabaseSecretsEngine(openbao, database) as engine:
        engine.dynamic_role("dynamic")
        engine.dynamic_role("owner", member_of=database.owner.user)
        engine.static_role("static", database.login())
        yield engine
