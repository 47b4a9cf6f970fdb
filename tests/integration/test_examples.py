"""The examples, run as a reader would: copied out of the repo, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect as open_websocket

from pg_secrets import connect
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import free_port

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PYTHON = [sys.executable, "-W", "error"]


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Copies an example out of the repo, so that nothing but the installed package helps it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(EXAMPLES / name, tmp_path / name))

    return copy


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """Run a Python program of an example to its end, and return what it printed."""
    done = subprocess.run(
        [*PYTHON, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def running(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a program of an example beside the test."""
    with subprocess.Popen(
        [*PYTHON, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            yield program
        finally:
            if program.poll() is None:
                program.terminate()


def rotate(database: FreshDatabase, login: Login, secret: Path) -> Login:
    """Change a password, first in the database, and end every session of that login."""
    changed = database.set_password(login.user)
    assert database.terminate(login.user) > 0
    secret.write_text(changed.password)
    return changed


def prepare(folder: Path, database: FreshDatabase, environment: dict[str, str]) -> None:
    """Migrate as the owner, and grant what the command prints, with the project's own manage.py."""
    owner = folder / "owner-password"
    owner.write_text(database.owner.password)
    as_owner = {**environment, "PGUSER": database.owner.user, "PASSWORD_FILE": str(owner)}
    run(folder, "manage.py", "migrate", "--verbosity", "0", **as_owner)
    grants = ["channels_pg_secrets", "grants", "--json", f"--role={database.runtime}"]
    for statement in json.loads(run(folder, "manage.py", *grants, **environment))["after_migrate"]:
        database.execute(statement)


# A custom engine


@pytest.mark.parametrize(
    "engine",
    ["myproject.db", pytest.param("myproject.engines.CompressingEngine", marks=pytest.mark.long)],
)
def test_a_backend_of_ones_own_keeps_delivering_through_rotations(
    copied: Callable[[str], Path], database: FreshDatabase, engine: str
) -> None:
    """Two processes with no CREDENTIALS lose and repeat nothing while their sessions are ended."""
    folder, login = copied("own_engine"), database.login()
    secret = folder / "password"
    secret.write_text(login.password)
    environment = {
        "PGDATABASE": database.name,
        "PGHOST": database.server.host,
        "PGPORT": str(database.server.port),
        "PGUSER": login.user,
        "PASSWORD_FILE": str(secret),
    }
    prepare(folder, database, environment)
    environment["ENGINE"] = engine
    with running(folder, "talk.py", "listen", "200", environment=environment) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        with running(folder, "talk.py", "send", "200", environment=environment) as sender:
            heard = []
            for line in listener.stdout:
                heard.append(int(line))
                if heard[-1] in (50, 120):
                    rotate(database, login, secret)
            assert sender.wait(30) == 0
        assert listener.wait(30) == 0
    assert heard == list(range(200))


# A credential adapter


def test_an_adapter_of_ones_own_passes_the_contract(copied: Callable[[str], Path]) -> None:
    """The example's own tests, the contract suite among them, pass."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    printed = run(copied("own_adapter"), "-m", "pytest", *options)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None, printed
    assert int(passed[1]) >= 20


def test_an_adapter_of_ones_own_follows_a_rotation(
    copied: Callable[[str], Path],
    database: FreshDatabase,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Named by its path, it logs in, and after a rotation with what the safe has then."""
    monkeypatch.syspath_prepend(str(copied("own_adapter")))
    token = tmp_path / "token"
    token.write_text("token")
    login = database.login()
    with ScriptedHttpServer() as safe:

        def keep(kept: Login) -> None:
            answer = HttpAnswer(200, {"user": kept.user, "password": kept.password})
            safe.script("GET", "/secrets/app", answer)

        keep(login)
        config = {
            "ADAPTER": "team_safe.TeamSafeAdapter",
            "ADDRESS": safe.address,
            "SECRET": "app",
            "TOKEN_FILE": str(token),
            "BACKGROUND": False,
        }
        for _ in range(2):
            params = database.server.connection_params(database.name, login.user)
            del params["user"], params["password"]
            with connect(config, **params) as connection:
                assert connection.execute("SELECT session_user").fetchone() == (login.user,)
            login = database.set_password(login.user)
            keep(login)
        assert safe.requests[-1].headers["authorization"] == "Bearer token"


# An engine around another layer


def test_an_engine_around_another_layer_copies_to_its_service(
    copied: Callable[[str], Path], database: FreshDatabase
) -> None:
    """Around the memory engine and around PostgreSQL every message is received and copied once."""
    own, folder = copied("own_engine"), copied("own_layer_engine")
    login = database.login()
    settings = {key: str(value) for key, value in database.settings(login).items()}
    prepare(
        own,
        database,
        {
            "PGDATABASE": settings["NAME"],
            "PGHOST": settings["HOST"],
            "PGPORT": settings["PORT"],
        },
    )
    expected = [f"received {number}" for number in range(5)]
    expected += [f'copied ["talk", {{"type": "talk", "number": {n}}}]' for n in range(5)]
    for inner in ({"ENGINE": "memory"}, settings):
        assert run(folder, "try_it.py", LAYER=json.dumps(inner)).splitlines() == expected


def test_a_service_that_is_away_delays_nobody(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting copies never waits, what does not fit is dropped, and closing ends in time."""
    monkeypatch.syspath_prepend(str(copied("own_layer_engine")))
    import mirror  # type: ignore[import-not-found]

    copier: Any = mirror.Copier(("127.0.0.1", free_port()), size=10)
    began = time.monotonic()
    for number in range(1000):
        copier.put(b"%d\n" % number)
    copier.close(timeout=5.0)
    assert time.monotonic() - began < 4.0
    assert copier.copied == 0
    assert copier.dropped >= 989


# The tutorial


@pytest.fixture
def chat_database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """What the tutorial's SQL makes of an empty server; removed afterwards."""
    database = FreshDatabase(postgres_server, "chat")
    text = (REPOSITORY / "docs" / "tutorial.md").read_text()
    (script,) = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    try:
        for statement in filter(None, map(str.strip, script.split(";"))):
            postgres_server.execute(statement)
        yield database
    finally:
        postgres_server.drop_database("chat")
        for role in ("chat_login", "chat"):
            postgres_server.execute(f"DROP ROLE IF EXISTS {role}")


def test_the_chat_of_the_tutorial_survives_a_rotation(
    copied: Callable[[str], Path], chat_database: FreshDatabase
) -> None:
    """Made as the tutorial says, the chat goes on when the password changes and sessions end."""
    folder, server, port = copied("chat"), chat_database.server, free_port()
    secret = folder / "secret"
    secret.mkdir()
    (secret / "username").write_text("chat_login")
    (secret / "password").write_text("first")
    environment = {"PGHOST": server.host, "PGPORT": str(server.port)}
    run(folder, "manage.py", "migrate", "--verbosity", "0", **environment)
    serve = ["-m", "uvicorn", "chat.asgi:application", "--port", str(port), "--log-level=warning"]
    # uvicorn itself still imports what websockets has deprecated.
    serve = ["-W", "ignore::DeprecationWarning", *serve]
    with running(folder, *serve, environment=environment) as program:
        address = f"ws://127.0.0.1:{port}/ws/"
        with opened(address, program) as one, opened(address, program) as two:
            for text in ("before", "after"):
                one.send(json.dumps({"text": text}))
                for socket in (one, two):
                    assert json.loads(socket.recv(20)) == {"text": text}
                if text == "before":
                    rotate(chat_database, Login("chat_login", "first"), secret / "password")


def opened(address: str, program: subprocess.Popen[str]) -> Any:
    """Open a WebSocket when the server is there to take it."""
    until = time.monotonic() + 30
    while True:
        try:
            return open_websocket(address)
        except OSError:
            assert program.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
