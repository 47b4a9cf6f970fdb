"""Real servers for the tests: one of each per worker, one database per test."""

from __future__ import annotations

import pytest

from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.process import forget_client_settings

pytest_plugins = ["pg_secrets.testing.fixtures"]

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
def openbao(openbao_server: OpenBaoServer) -> OpenBaoServer:
    """The shared Vault, by its short name."""
    return openbao_server
