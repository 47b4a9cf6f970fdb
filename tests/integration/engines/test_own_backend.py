"""A project outside the repo whose own Django backend fetches its password."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from django.core.management import call_command
from django.db import connections

from channels_pg_secrets.management.grants import Grants
from pg_secrets.testing.database import FreshDatabase, Login

BACKEND = """
from pathlib import Path
from django.db.backends.postgresql import base

class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self):
        password = Path(self.settings_dict["PASSWORD_FILE"]).read_text()
        return {**super().get_connection_params(), "password": password}
"""

PROGRAM = """
import asyncio, json, sys
import django
from django.conf import settings

config = json.loads(sys.argv[1])
layers = {"default": {"ENGINE": "myproject.db", "CONFIG": config}}
settings.configure(INSTALLED_APPS=["channels_pg_secrets"], CHANNEL_LAYERS=layers)
django.setup()
from channels.layers import get_channel_layer

async def main():
    layer, received = get_channel_layer(), []

    async def receive():
        while len(received) < 150:
            received.append((await layer.receive("jobs"))["n"])

    receiving = asyncio.create_task(receive())
    for n in range(150):
        await layer.send("jobs", {"type": "job", "n": n})
        print(n, flush=True)
        await asyncio.sleep(0.01)
    await asyncio.wait_for(receiving, 30)
    print(json.dumps(received), flush=True)

asyncio.run(main())
"""


def migrated(database: FreshDatabase) -> None:
    """Install the layer's tables and give the runtime role its rights."""
    connections.settings["own"] = {
        **connections.settings["default"],
        **database.settings(database.owner),
        "OPTIONS": {},
    }
    try:
        call_command("migrate", "channels_pg_secrets", database="own", verbosity=0)
    finally:
        connections["own"].close()
        del connections["own"], connections.settings["own"]
    grants = Grants(database.owner.user, database.runtime, database.name, "public")
    for statement in grants.before_migrate() + grants.after_migrate():
        database.execute(statement)


def rotate(database: FreshDatabase, login: Login, secret: Path) -> None:
    """Change the password, first in the database, and end every session of that login."""
    changed = database.set_password(login.user)
    assert database.terminate(login.user) > 0
    secret.write_text(changed.password)


def test_it_keeps_delivering_through_rotations(database: FreshDatabase, tmp_path: Path) -> None:
    """With no CREDENTIALS, nothing is lost or doubled while the password changes twice."""
    migrated(database)
    login, secret = database.login(), tmp_path / "password"
    secret.write_text(login.password)
    (tmp_path / "myproject" / "db").mkdir(parents=True)
    (tmp_path / "myproject" / "db" / "base.py").write_text(BACKEND)
    (tmp_path / "program.py").write_text(PROGRAM)
    config = {**database.settings(), "USER": login.user, "PASSWORD_FILE": str(secret)}
    command = [sys.executable, "program.py", json.dumps(config)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            last = ""
            for line in program.stdout:
                last = line
                if line.strip() in ("40", "90"):
                    rotate(database, login, secret)
        finally:
            program.terminate()
    assert sorted(json.loads(last)) == list(range(150))
