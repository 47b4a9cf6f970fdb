"""The commands and SQL of the how-tos, run against real servers as they stand there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from channels_pg_secrets.sql import install
from pg_secrets import connect, credential_source
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.openbao import OpenBaoServer, find_binary
from pg_secrets.testing.postgres import PostgresServer

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of one language on a page."""
    fence = rf"^```{language}\n(.*?)^```"
    return re.findall(fence, (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def app_database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """What the Vault how-to assumes: a database ``app``, its owner's role, and a login."""
    database = FreshDatabase(postgres_server, "app")
    database.owner, database.runtime = Login("app", ""), "app"
    postgres_server.execute("CREATE ROLE app NOLOGIN")
    try:
        postgres_server.create_database("app", owner="app")
        database.login("app_login", "canary")
        yield database
    finally:
        database.drop()


def follow(page: str, folder: Path, **environment: str) -> None:
    """Run the shell commands of a page, with ``vault`` being whatever there is."""
    script = "\n".join(["set -e", 'vault() { "$BINARY" "$@"; }', *blocks(page, "sh")])
    done = subprocess.run(
        ["bash", "-c", script.replace("db.example:5432", environment["DATABASE"])],
        env={**os.environ, **environment, "BINARY": str(find_binary())},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def shown(page: str) -> list[dict[str, Any]]:
    """Return each ``CREDENTIALS`` that a page shows."""
    return [
        ast.literal_eval(block.removeprefix("CREDENTIALS = ")) for block in blocks(page, "python")
    ]


def test_the_vault_how_to_leads_to_a_login(app_database: FreshDatabase, tmp_path: Path) -> None:
    """After its commands each of its CREDENTIALS logs in, and its policy lets leases be ended."""
    server = app_database.server
    with OpenBaoServer() as vault:
        follow(
            "howto/vault.md",
            tmp_path,
            VAULT_ADDR=vault.address,
            VAULT_TOKEN=vault.root_token,
            ADMIN_USER=server.superuser,
            ADMIN_PASSWORD=server.password,
            APP_PASSWORD="canary",
            DATABASE=f"{server.host}:{server.port}",
        )
        client = vault.client()
        token = client.auth.token.create(policies=["app"])["auth"]["client_token"]
        client.adapter.close()
        (tmp_path / "token").write_text(token)
        for config in shown("howto/vault.md"):
            if "KV" in config:
                # Taking a login over as a static role has changed its password.
                app_database.set_password("app_login", "canary")
            auth = config.setdefault("AUTH", {"METHOD": "token", "TOKEN_FILE": "token"})
            if "SHARED" in config:
                config["SHARED"] = str(tmp_path / "shared")
                (tmp_path / "shared").mkdir(mode=0o700)
            for key in auth.keys() & {"TOKEN_FILE", "ROLE_ID_FILE", "SECRET_ID_FILE"}:
                auth[key] = str(tmp_path / Path(auth[key]).name)
            source = credential_source({**config, "ADDRESS": vault.address})
            with connect(source, host=server.host, port=server.port, dbname="app") as connection:
                row = connection.execute("SELECT session_user, pg_has_role('app', 'MEMBER')")
                user, member = row.fetchone() or ("", False)
            source.close()
            assert member
            assert (user == "app_login") == ("ROLE" not in config)
            assert source.stats()["revoked"] == ("ROLE" in config)
            assert source.stats()["revoke_failed"] == 0


def test_the_sql_of_the_sql_page_runs(database: FreshDatabase) -> None:
    """A database with the layer's functions takes every statement that the page shows."""
    with psycopg.connect(**database.connection_params(), autocommit=True) as connection:
        for name in ("tables.sql", "internals_v1.sql", "functions_v1.sql"):
            text = install.read(name).replace("@schema@", "public")
            connection.execute(text.encode())
        for block in blocks("reference/sql.md", "postgresql"):
            connection.execute(block.encode())
        queued = connection.execute("SELECT channel FROM channels_pg_secrets_queue").fetchall()
    assert queued == [("mailer",)]
