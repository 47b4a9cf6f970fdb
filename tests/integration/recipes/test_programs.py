"""Each recipe as a reader would run it: copied out of the repo, its login in a mounted secret."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pg_secrets.testing.database import FreshDatabase, Login
from tests.integration.recipes.conftest import RECIPES, sessions, wait_until

PROGRAMS = ["psycopg", "psycopg_pool", "sqlalchemy", "sqlalchemy_async", "asyncpg", "django"]


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[Login], Path]:
    """Writes a login into a directory as Kubernetes mounts it."""
    folder = tmp_path / "login"
    folder.mkdir()

    def write(login: Login) -> Path:
        (folder / "username").write_text(login.user)
        (folder / "password").write_text(login.password)
        return folder

    return write


@contextmanager
def running(program: Path, **environment: str) -> Iterator[Iterator[str]]:
    """Run a recipe; the lines it prints."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", program.name],
        cwd=program.parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield (line.strip() for line in process.stdout)
        finally:
            process.terminate()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_follows_its_login(
    tmp_path: Path, database: FreshDatabase, secret: Callable[[Login], Path], name: str
) -> None:
    """It goes on, without any error, when its role is replaced and dropped with its sessions."""
    program = Path(shutil.copy(RECIPES / f"with_{name}.py", tmp_path))
    old, new = database.login(), database.login()
    environment = {
        "LOGIN": str(secret(old)),
        "PGHOST": database.server.host,
        "PGPORT": str(database.server.port),
        "PGDATABASE": database.name,
    }
    with running(program, **environment) as lines:
        assert next(lines) == old.user
        secret(new)
        database.execute(f'ALTER ROLE "{old.user}" NOLOGIN')
        database.terminate(old.user)
        wait_until(lambda: sessions(database, old.user) == 0)
        database.execute(f'DROP ROLE "{old.user}"')
        assert next(line for line in lines if line != old.user) == new.user
