"""An adapter and an engine of somebody else, built and installed as distributions of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("own_adapter", "own_layer_engine")

#: Prints what both names lead to, and what a name that is nearly right is answered with.
RESOLVE = """
from channels_pg_secrets import ChannelLayer
from pg_secrets import credential_source

config = {"ADDRESS": "http://127.0.0.1:1", "SECRET": "app", "TOKEN_FILE": "token"}
source = credential_source({"ADAPTER": "team_safe", **config})
layer = ChannelLayer(ENGINE="mirror", INNER={"ENGINE": "memory"}, COPY_TO="127.0.0.1:1")
for found in (source.adapter, layer):
    print(type(found).__name__, __import__(type(found).__module__).__file__)
for attempt in (
    lambda: credential_source({"ADAPTER": "team_save", **config}),
    lambda: ChannelLayer(ENGINE="miror"),
):
    try:
        attempt()
    except Exception as error:
        print(error)
"""

#: Sends one message through the engine, in the database that CONFIG names; prints what both got.
SEND = """
import asyncio, json, os, socket, sys
import django
from django.conf import settings

config = json.load(sys.stdin)
listener = socket.create_server(("127.0.0.1", 0))
config["COPY_TO"] = "127.0.0.1:%d" % listener.getsockname()[1]
layers = {"default": {"ENGINE": "mirror", "CONFIG": config}}
settings.configure(INSTALLED_APPS=["channels_pg_secrets"], CHANNEL_LAYERS=layers)
django.setup()

async def talk():
    from channels.layers import get_channel_layer
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("talk", channel)
    await layer.group_send("talk", {"type": "talk", "number": 1})
    print(json.dumps(await asyncio.wait_for(layer.receive(channel), 20)))
    await layer.close()

asyncio.run(talk())
listener.settimeout(20)
connection, _ = listener.accept()
with connection, connection.makefile() as lines:
    print(lines.readline().strip())
listener.close()
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both examples in it, as pip installs them."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("needs pip in the environment that the tests run in")
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    folders = [shutil.copytree(EXAMPLES / name, sources / name) for name in NAMES]
    options = ["--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]
    if importlib.util.find_spec("hatchling") is not None:
        options.append("--no-build-isolation")  # which would get it from the package index
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, f"--target={target}", *folders],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(installed: Path, folder: Path, *arguments: str, given: str = "") -> str:
    """Run Python with the two installed, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_pip_installs_is_the_module_and_its_entry_point(installed: Path) -> None:
    """A wheel holds one module and its metadata: neither tests nor scripts of the example."""
    files = {path.name for path in installed.iterdir() if path.name != "__pycache__"}
    assert files == {
        "team_safe.py",
        "mirror.py",
        "pg_secrets_team_safe-1.0.dist-info",
        "channels_pg_secrets_mirror-1.0.dist-info",
    }


def test_installed_names_are_found(installed: Path, tmp_path: Path) -> None:
    """ADAPTER and ENGINE take the names of the entry points, and a near miss is told of them."""
    adapter, layer, *mistakes = run(installed, tmp_path, "-c", RESOLVE).splitlines()
    assert adapter == f"TeamSafeAdapter {installed / 'team_safe.py'}"
    assert layer == f"MirrorLayer {installed / 'mirror.py'}"
    assert [name for name in ("team_safe", "mirror") if name not in "".join(mistakes)] == []


@pytest.mark.long
def test_the_installed_adapter_passes_the_contract(installed: Path, tmp_path: Path) -> None:
    """The contract suite holds of the adapter as it was installed."""
    shutil.copy(EXAMPLES / "own_adapter" / "test_team_safe.py", tmp_path)
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    printed = run(installed, tmp_path, "-m", "pytest", *options)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None, printed
    assert int(passed[1]) >= 20


def test_a_message_goes_through_both(
    installed: Path, database: FreshDatabase, tmp_path: Path
) -> None:
    """The engine and the adapter, each by its name, deliver a message and its copy."""
    login = migrated(installed, database, tmp_path)
    (tmp_path / "token").write_text("token")
    with ScriptedHttpServer() as safe:
        answer = {"user": login.user, "password": login.password}
        safe.script("GET", "/secrets/app", HttpAnswer(200, answer))
        credentials = {
            "ADAPTER": "team_safe",
            "ADDRESS": safe.address,
            "SECRET": "app",
            "TOKEN_FILE": str(tmp_path / "token"),
        }
        config = {"INNER": database.settings(), "CREDENTIALS": credentials}
        received, copied = run(
            installed, tmp_path, "-c", SEND, given=json.dumps(config)
        ).splitlines()
    message = {"type": "talk", "number": 1}
    assert (json.loads(received), json.loads(copied)) == (message, ["talk", message])
    assert safe.count("/secrets/app") == 1


#: Makes the layer's tables as the owner, and prints the grants for the runtime role.
MIGRATE = """
import io, json, sys
import django
from django.conf import settings
from django.core.management import call_command

given = json.load(sys.stdin)
engine = "django.db.backends.postgresql"
settings.configure(
    INSTALLED_APPS=["channels", "channels_pg_secrets"],
    DATABASES={"default": {"ENGINE": engine, **given["database"]}},
    CHANNEL_LAYERS={"default": {"ENGINE": engine, "CONFIG": given["database"]}},
)
django.setup()
call_command("migrate", verbosity=0)
options = ["--json", "--role=" + given["role"]]
call_command("channels_pg_secrets", "grants", *options)
"""


def migrated(installed: Path, database: FreshDatabase, folder: Path) -> Login:
    """Make the layer's tables, and return a login that may use them."""
    given: dict[str, Any] = {"database": database.settings(database.owner)}
    given["role"] = database.runtime
    printed = run(installed, folder, "-c", MIGRATE, given=json.dumps(given))
    for statement in json.loads(printed)["after_migrate"]:
        database.execute(statement)
    return database.login()
