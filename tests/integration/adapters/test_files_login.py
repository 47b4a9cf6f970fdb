"""The files adapter with what really writes such files: Vault Agent, and a rotation."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pg_secrets.credentials import Credentials
from pg_secrets.env import EnvAdapter
from pg_secrets.files import FilesAdapter
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.openbao import OpenBaoServer, find_binary
from pg_secrets.testing.process import ServerProcess, base_environment

AGENT = """
vault {{ address = "{address}" }}
auto_auth {{
  method "token_file" {{ config = {{ token_file_path = "{token}" }} }}
  sink "file" {{ config = {{ path = "{sink}" }} }}
}}
template_config {{ static_secret_render_interval = "1s" }}
template {{
  contents = <<EOT
{{{{ with secret "{path}" }}}}{{
  "username": "{{{{ .Data.data.username }}}}",
  "password": "{{{{ .Data.data.password }}}}"
}}{{{{ end }}}}
EOT
  destination = "{destination}"
}}
"""


def wait_for(condition: Callable[[], bool | None], timeout: float = 20.0) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def user_of(database: FreshDatabase, credentials: Credentials) -> str:
    """Log in with ``credentials`` and return who that is."""
    params = database.connection_params() | credentials.connection_params()
    with psycopg.connect(**params) as connection:
        row = connection.execute("SELECT session_user::text").fetchone()
    assert row is not None
    return str(row[0])


def test_vault_agent(openbao: OpenBaoServer, database: FreshDatabase, tmp_path: Path) -> None:
    """A file that Vault Agent renders anew after a rotation is noticed, and logs in."""
    client, path = openbao.client(), f"agent/{database.name}"

    def keep(login: Login) -> None:
        secret = {"username": login.user, "password": login.password}
        client.secrets.kv.v2.create_or_update_secret(path, secret=secret)

    login = database.login()
    keep(login)
    destination = tmp_path / "login.json"
    with agent(openbao, f"secret/data/{path}", destination):
        adapter = FilesAdapter.from_config({"PATH": destination})
        first = adapter.fetch()
        assert user_of(database, first) == login.user
        assert adapter.changed(first) is False
        keep(database.set_password(login.user))
        wait_for(lambda: adapter.changed(first))
        second = adapter.fetch()
        assert second.password != first.password
        assert user_of(database, second) == login.user
    client.adapter.close()


@contextmanager
def agent(openbao: OpenBaoServer, path: str, destination: Path) -> Iterator[None]:
    """Run Vault Agent, which keeps rendering the secret at ``path`` into ``destination``."""
    folder = destination.parent
    (folder / "token").write_text(openbao.root_token)
    config = AGENT.format(
        address=openbao.address,
        token=folder / "token",
        sink=folder / "sink",
        path=path,
        destination=destination,
    )
    (folder / "agent.hcl").write_text(config)
    process = ServerProcess(
        [find_binary(), "agent", f"-config={folder / 'agent.hcl'}"],
        directory=folder,
        log=folder / "log",
        environment=base_environment(HOME=str(folder)),
        stop_signal=signal.SIGTERM,
    )
    try:
        process.wait_until(destination.exists, timeout=20, name="Vault Agent")
        yield
    finally:
        process.stop(signal.SIGTERM)


def test_mounted_secret(database: FreshDatabase, tmp_path: Path) -> None:
    """A login in a mounted directory still gets in after password and files were changed."""
    login = database.login()
    (tmp_path / "username").write_text(f"{login.user}\n")
    (tmp_path / "password").write_text(f"{login.password}\n")
    adapter = FilesAdapter.from_config({"DIRECTORY": tmp_path})
    found = adapter.fetch()
    assert user_of(database, found) == login.user
    rotated = database.set_password(login.user)
    (tmp_path / "new").write_text(rotated.password)
    (tmp_path / "new").replace(tmp_path / "password")
    assert adapter.changed(found) is True
    assert user_of(database, adapter.fetch()) == login.user


@pytest.mark.parametrize("password", ["plain", "sp ace'\"\\", "ü→/?#@:%&", "$HOME `x` #"])
def test_any_password_gets_through(
    database: FreshDatabase, tmp_path: Path, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password of any characters logs in from a file, from JSON and from the environment."""
    login = database.login(password=password)
    (tmp_path / "password").write_text(password, encoding="utf-8")
    document = {"username": login.user, "password": password}
    (tmp_path / "x.json").write_text(json.dumps(document))
    monkeypatch.setenv("APP_SECRET", json.dumps(document))
    monkeypatch.setitem(os.environ, "APP_PASSWORD", password)
    monkeypatch.setenv("APP_USER", login.user)
    found = [
        FilesAdapter.from_config({"DIRECTORY": tmp_path}).fetch().replace(user=login.user),
        FilesAdapter.from_config({"PATH": tmp_path / "x.json"}).fetch(),
        EnvAdapter.from_config({"JSON": "APP_SECRET"}).fetch(),
        EnvAdapter.from_config({"USERNAME": "APP_USER", "PASSWORD": "APP_PASSWORD"}).fetch(),
    ]
    assert [user_of(database, credentials) for credentials in found] == [login.user] * 4
