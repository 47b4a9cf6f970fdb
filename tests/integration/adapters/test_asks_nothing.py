"""Importing, and building sources and layers, sends nothing to any store."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Imports, builds, and prints each step after which a program was started or somebody called.
#: Python's audit events tell of sockets that Python opens; the listener of all the others.
BUILD = """
import json, sys
said = []
events = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen"}
sys.addaudithook(lambda event, _: said.append(event) if event in events else None)
config = json.load(sys.stdin)

def step(name):
    print(json.dumps([name, said]), flush=True)
    said.clear()

import pg_secrets
step("import pg_secrets")
from django.conf import settings
settings.configure(INSTALLED_APPS=["channels_pg_secrets"])
import django
import channels_pg_secrets
django.setup()
step("import channels_pg_secrets")
source = pg_secrets.credential_source(config)
step("build the source")
layer = channels_pg_secrets.ChannelLayer(NAME="app", HOST="db.invalid", CREDENTIALS=source)
step("build the layer")
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(loaded & {"hvac", "boto3", "google", "requests_oauthlib", "grpc"})))
"""

#: Google's client says so of Python 3.10, which works.
OLD_PYTHON = "ignore:You are using a non-supported Python version:FutureWarning"
SDKS = {
    "vault": ["hvac"],
    "aws": ["boto3"],
    "rds_iam": ["boto3"],
    "gcp": ["google", "grpc"],
    "oauth": ["requests_oauthlib"],
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody who notices when he is called, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def settings_for(adapter: str, port: int, folder: Path) -> dict[str, Any]:
    """Return settings whose store is at a port of this machine, as far as it has a place."""
    url = f"http://127.0.0.1:{port}"
    token = {"METHOD": "token", "TOKEN": "t"}
    secure = f"https://127.0.0.1:{port}/token"
    vault = {"ADDRESS": url, "ROLE": "app", "AUTH": token}
    places: dict[str, dict[str, Any]] = {
        "vault": vault,
        "aws": {"SECRET": "app", "REGION": "eu-central-1", "ENDPOINT": url},
        "rds_iam": {"HOST": "127.0.0.1", "PORT": port, "USERNAME": "app", "REGION": "x"},
        "gcp": {"SECRET": "app", "PROJECT": "local", "ENDPOINT": url},
        "oauth": {"TOKEN_URL": secure, "CLIENT_ID": "app", "CLIENT_SECRET": "s"},
        "files": {"DIRECTORY": str(folder)},
        "env": {},
        "command": {"COMMAND": ["/bin/false"]},
        "chain": {"ADAPTERS": ["env", {"ADAPTER": "files", "DIRECTORY": str(folder)}]},
    }
    return {"ADAPTER": adapter, **places[adapter]}


LATER = ["aws", "rds_iam", "gcp", "oauth", "files", "env", "command", "chain"]


@pytest.mark.parametrize(
    "adapter", ["vault", *(pytest.param(name, marks=pytest.mark.long) for name in LATER)]
)
def test_nothing_is_asked_before_somebody_uses_it(
    adapter: str, listener: socket.socket, tmp_path: Path
) -> None:
    """No import and no built layer calls a store or starts a program; no other SDK is loaded."""
    port = listener.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", OLD_PYTHON, "-c", BUILD],
        input=json.dumps(settings_for(adapter, port, tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *steps, loaded = map(json.loads, done.stdout.splitlines())
    assert [step for step in steps if step[1]] == []
    assert len(steps) == 4
    assert loaded == SDKS.get(adapter, [])
    assert select.select([listener], [], [], 0) == ([], [], [])
