"""A Celery worker that forks, and results in PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.backends.database.session import ResultModelBase
from sqlalchemy import create_engine

from pg_secrets import connect
from pg_secrets.testing.database import FreshDatabase, Login
from tests.integration.recipes.conftest import RECIPES, sessions, wait_until

HOW_TO = RECIPES.parents[1] / "docs" / "howto" / "outside-channels.md"

#: A broker that needs no server, in the current directory. It takes a file that is not yet written
#: for a message, so they are written elsewhere.
QUEUE = {"data_folder_in": "queue", "data_folder_out": "written", "polling_interval": 0.02}
WORKER = f"""
from with_celery import app
app.conf.broker_transport_options = {QUEUE}
app.worker_main(["worker", "--pool=prefork", "--concurrency=1", "--loglevel=WARNING",
                 "--without-gossip", "--without-mingle", "--without-heartbeat"])
"""


@pytest.fixture
def tables(database: FreshDatabase) -> None:
    """Celery's tables, made by the owner, with the rights for the logins that the how-to gives."""
    owner = {**database.connection_params(database.owner)}
    engine = create_engine("postgresql+psycopg://", connect_args=owner)
    ResultModelBase.metadata.create_all(engine)
    engine.dispose()
    (script,) = re.findall(r"^```sql\n(.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    for statement in filter(None, map(str.strip, script.split(";"))):
        database.execute(statement.replace("shop_runtime", f'"{database.runtime}"'))


@pytest.fixture
def login(database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """The first login, in a mounted secret; the environment leads to it."""
    first = database.login()
    mount(tmp_path, first)
    environment = {
        "LOGIN": str(tmp_path / "login"),
        "PGHOST": database.server.host,
        "PGPORT": str(database.server.port),
        "PGDATABASE": database.name,
        "BROKER": "filesystem://",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue").mkdir()
    (tmp_path / "written").mkdir()
    return first


def mount(folder: Path, login: Login) -> None:
    """Put a login into the secret."""
    (folder / "login").mkdir(exist_ok=True)
    (folder / "login" / "username").write_text(login.user)
    (folder / "login" / "password").write_text(login.password)


@pytest.fixture
def recipe(login: Login, tmp_path: Path) -> Iterator[Any]:
    """The recipe's module, and a worker that runs it."""
    copied = shutil.copy(RECIPES / "with_celery.py", tmp_path)
    spec = importlib.util.spec_from_file_location("with_celery", copied)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.app.conf.broker_transport_options = QUEUE
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True) as worker:
        try:
            yield module
        finally:
            # With the process that it forked. To end in good order takes it six seconds.
            os.killpg(worker.pid, signal.SIGKILL)
    module.app.close()
    module.source.close()


def ask(recipe: Any, folder: Path) -> str:
    """Send the recipe's task, and return its result."""
    result = recipe.who.delay()
    for message in (folder / "written").iterdir():
        message.rename(folder / "queue" / message.name)
    return str(result.get(timeout=20, interval=0.02))


@pytest.mark.usefixtures("tables")
def test_tasks_and_results_follow_the_login(
    recipe: Any, login: Login, database: FreshDatabase, tmp_path: Path
) -> None:
    """A role that is dropped with its sessions costs no task and no result."""
    assert ask(recipe, tmp_path) == login.user
    new = database.login()
    mount(tmp_path, new)
    database.execute(f'ALTER ROLE "{login.user}" NOLOGIN')
    database.terminate(login.user)
    wait_until(lambda: sessions(database, login.user) == 0)
    database.execute(f'DROP ROLE "{login.user}"')
    assert ask(recipe, tmp_path) == new.user
    with connect(recipe.source) as connection:
        done = connection.execute("SELECT status FROM celery_taskmeta").fetchall()
    assert done == [("SUCCESS",), ("SUCCESS",)]
