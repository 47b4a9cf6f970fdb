"""``channels-pg-secrets doctor``, run as people run it: without a Django project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from tests.integration.layer.conftest import migrate


def doctor(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "DJANGO" not in key}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "channels_pg_secrets", "doctor", *arguments],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def place(database: FreshDatabase) -> list[str]:
    server = database.server
    return [f"--name={database.name}", f"--host={server.host}", f"--port={server.port}"]


def options(engine: DatabaseSecretsEngine, address: str, token: str) -> list[str]:
    auth = json.dumps({"METHOD": "token", "TOKEN": token})
    given = {"ADDRESS": address, "MOUNT": engine.mount, "ROLE": "dynamic", "AUTH": auth}
    return ["--adapter=vault", *(f"--option={key}={value}" for key, value in given.items())]


def test_all_is_well(vault_database: DatabaseSecretsEngine, openbao: OpenBaoServer) -> None:
    """Each step from the store to a notification is shown, and no secret."""
    database = vault_database.database
    migrate(database)
    done = doctor(*place(database), *options(vault_database, openbao.address, openbao.root_token))
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines()[1:6]]
    assert steps == ["fetch", "log", "pooler", "rights", "listen"]
    assert "This login: ready" in done.stdout
    assert "password" not in done.stdout


def test_a_denied_token_comes_with_the_policy(
    vault_database: DatabaseSecretsEngine, openbao: OpenBaoServer
) -> None:
    """The lines that the policy lacks stand in the hint."""
    done = doctor(
        *place(vault_database.database),
        *options(vault_database, openbao.address, "canary"),
        "--json",
    )
    (finding,) = json.loads(done.stdout)["findings"]
    assert (done.returncode, finding["id"]) == (1, "channels_pg_secrets.W015")
    assert 'path "' in finding["hint"]
    assert '/creds/dynamic" { capabilities = ["read"] }' in finding["hint"]
    assert "canary" not in done.stdout + done.stderr


def config(database: FreshDatabase, **changes: Any) -> str:
    return json.dumps({**database.settings(database.login()), **changes})


def test_a_login_alone(database: FreshDatabase, tmp_path: Path) -> None:
    """Of a database that no layer uses, the rights are left out; the settings come from a file."""
    file = tmp_path / "database.json"
    file.write_text(config(database))
    done = doctor("--login-only", f"--config={file}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [step["name"] for step in found["steps"]] == ["log in", "pooler", "listen"]
    assert doctor(f"--config={file}").returncode == 1  # there are no tables


def test_a_refused_login_comes_with_the_sql(database: FreshDatabase) -> None:
    """The statements that would mend it name the user, quoted."""
    secret = {"ADAPTER": "command", "COMMAND": ["echo", '{"user": "no\\"body", "password": "x"}']}
    done = doctor("--config=-", "--json", stdin=config(database, CREDENTIALS=secret))
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["id"] == "channels_pg_secrets.W012"
    assert 'ALTER ROLE "no""body" LOGIN PASSWORD' in finding["hint"]


def test_a_database_that_is_not_there_comes_with_the_sql(database: FreshDatabase) -> None:
    """So does a missing database."""
    done = doctor("--config=-", "--json", stdin=config(database, NAME="no such"))
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["id"] == "channels_pg_secrets.W013"
    assert 'CREATE DATABASE "no such";' in finding["hint"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["--config=-"], "{password: canary}", "no JSON"),
        (["--config=-"], "[1]", "expected a JSON object"),
        (["--config=/no/such/file"], "", "/no/such/file"),
        (["--config=-"], '{"HSOT": "db", "NAME": "a"}', "Did you mean 'HOST'"),
        (["--adapter=vualt"], "", "Did you mean 'vault'"),
        (["--option=ROLE=app"], "", "goes with --adapter"),
        (["--option=role=app"], "", "KEY in capitals"),
    ],
)
def test_settings_that_cannot_work(arguments: list[str], stdin: str, said: str) -> None:
    """One sentence, code 2, and nothing of what was given."""
    done = doctor(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr
