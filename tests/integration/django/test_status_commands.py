"""``manage.py channels_pg_secrets status``, ``reload`` and ``drill``, beside running processes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from pg_secrets.testing.database import FreshDatabase, Login
from tests.integration.layer.conftest import Peer, migrate
from tests.integration.layer.conftest import _eventually as eventually


class Project:
    """One layer whose login is kept in a file, the commands on it, and processes that use it."""

    def __init__(self, database: FreshDatabase, directory: Path) -> None:
        migrate(database)
        self.database = database
        self.secret = directory / "login.json"
        self.login = database.login()
        self.keep(self.login)
        self.config: dict[str, Any] = {
            **database.settings(None),
            "CREDENTIALS": {"ADAPTER": "files", "PATH": str(self.secret)},
        }
        self.peers: list[Peer] = []

    def keep(self, login: Login) -> None:
        """Put another login into the file."""
        self.secret.write_text(json.dumps({"username": login.user, "password": login.password}))

    def peer(self, **more: Any) -> Peer:
        """Start a process that uses the layer."""
        self.peers.append(Peer({**self.config, **more}))
        return self.peers[-1]

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code of a command and what it printed."""
        out = io.StringIO()
        with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": self.config}}):
            try:
                call_command("channels_pg_secrets", *arguments, stdout=out, stderr=io.StringIO())
            except SystemExit as end:
                return int(end.code or 0), out.getvalue()
        return 0, out.getvalue()

    def run_json(self, *arguments: str) -> tuple[int, Any]:
        code, text = self.run(*arguments, "--json")
        return code, json.loads(text)


@pytest.fixture
def project(database: FreshDatabase, tmp_path: Path) -> Iterator[Project]:
    """A migrated layer."""
    made = Project(database, tmp_path)
    yield made
    for peer in made.peers:
        peer.close()


async def test_status_shows_every_process(project: Project) -> None:
    """Both, with login, connections, where parameters came from and events; nothing secret."""
    for _ in range(2):
        await project.peer()("new_channel")
    code, found = project.run_json("status")
    assert (code, found["complete"]) == (0, True)
    assert sorted(one["pid"] for one in found["processes"]) == sorted(
        peer.pid for peer in project.peers
    )
    code, text = project.run("status")
    assert code == 0
    assert "'default': 2 processes" in text
    assert text.count(f"publisher  as {project.login.user}, generation 1") == 2
    assert "CREDENTIALS (files): user, password" in text
    assert "fetched, generation 1" in text
    assert project.login.password not in text + json.dumps(found)


def test_status_of_a_layer_that_nobody_uses(project: Project) -> None:
    """It says so; the command does not count itself."""
    assert project.run("status") == (0, "Channel layer 'default': no process uses it\n")


async def test_reload_reaches_a_process_that_would_not_look_for_an_hour(
    project: Project,
) -> None:
    """The store changed and nobody noticed: after the command all use the new login."""
    # Settings as of a store that only says what it holds when it is asked.
    project.config["CREDENTIALS"]["TTL"] = 3600
    peer = project.peer()
    await peer("new_channel")
    other = project.database.login()
    project.keep(other)
    code, found = project.run_json("reload")
    assert code == 0
    (one,) = found["processes"]
    assert (one["error"], one["generation"]) == (None, 2)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    await eventually(lambda: project.database.execute(sessions, (other.user,))[0][0] == 2)
    await eventually(lambda: project.database.execute(sessions, (project.login.user,))[0][0] == 0)
    code, text = project.run("reload")
    assert "the store says the same; it stays at generation 2" in text


async def test_reload_tells_whose_store_refuses(project: Project) -> None:
    """The process goes on with what it has, the command names the reason and exits with 1."""
    peer = project.peer()
    await peer("new_channel")
    kept = project.secret.read_text()
    broken = project.secret.with_name("broken")
    await peer("listen", "work")
    project.secret.rename(broken)
    try:
        # The command logs in as the settings say.
        project.config = {
            **project.database.settings(project.login),
            "prefix": "asgi",
        }
        code, text = project.run("reload")
    finally:
        project.secret.write_text(kept)
    assert code == 1
    assert "CredentialsNotFound" in text
    assert "goes on with generation 1" in text


def test_a_drill_passes(project: Project) -> None:
    """A rotation in its midst: nothing lost or repeated, and it says how long it took."""
    code, found = project.run_json("drill", "--seconds", "0.3")
    assert (code, found["passed"]) == (0, True)
    assert (found["lost"], found["duplicated"], found["out_of_order"]) == (0, 0, 0)
    assert found["sent"] == found["received"] > 20
    assert found["users"] == [project.login.user] * 2
    assert 0 < found["fetch_seconds"] < 5
    assert 0 < found["move_seconds"] < 5
    assert project.login.password not in json.dumps(found)


def test_a_drill_without_a_store(project: Project) -> None:
    """A login in the settings can be rehearsed as well."""
    project.config = project.database.settings(project.login)
    code, text = project.run("drill", "--seconds", "0.2")
    assert code == 0
    assert "'default': passed" in text
    assert "stands in the settings" in text
    assert "lost 0, duplicated 0, out of order 0" in text


@pytest.mark.parametrize("command", ["status", "reload", "drill"])
def test_a_database_without_tables(database: FreshDatabase, command: str, tmp_path: Path) -> None:
    """One sentence that leads on, and no traceback."""
    config = database.settings(database.login())
    with (
        override_settings(CHANNEL_LAYERS={"default": {"CONFIG": config}}),
        pytest.raises(CommandError, match="check` says what mends it"),
    ):
        call_command("channels_pg_secrets", command, stdout=io.StringIO(), stderr=io.StringIO())


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan"])
def test_nonsense_is_refused(project: Project, value: str) -> None:
    """A time that makes no sense is named."""
    with pytest.raises(CommandError, match=value):
        project.run("drill", f"--seconds={value}")
