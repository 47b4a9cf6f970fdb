"""The demo, run as people run it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pg_secrets.testing.process import free_port

pytestmark = pytest.mark.timeout(180)

COMMAND = [sys.executable, "-m", "channels_pg_secrets", "demo"]


#: What stands in the shell of somebody who uses Vault and PostgreSQL behind a proxy.
ELSEWHERE = {
    "VAULT_ADDR": "https://vault.example:8200",
    "VAULT_NAMESPACE": "team",
    "VAULT_CACERT": "/no/such/file",
    "http_proxy": "http://127.0.0.1:1",
    "PGHOSTADDR": "192.0.2.1",
    "PGSSLMODE": "require",
    "PGOPTIONS": "-c default_transaction_read_only=on",
}


def run_demo(
    temporary: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, f"--port={free_port()}", *options],
        cwd=temporary,
        env={**os.environ, **environment, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that work below a directory, or mention it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().replace("\0", " ")
            here = (process / "cwd").resolve().is_relative_to(directory)
        except OSError:
            continue
        if here or str(directory) in words:
            found.append(words)
    return found


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    return dict(json.loads(line))


@pytest.mark.long
def test_check_loses_nothing_while_logins_rotate(temporary: Path) -> None:
    """Clients of two server processes get every message once while the logins change.

    With Vault; .ci/run checks each adapter, and for longer.
    """
    result = result_of(run_demo(temporary, "--check", "6", "--rotate-every", "2"))
    assert result["adapter"] == "vault"
    assert (result["lost"], result["duplicated"], result["errors"]) == (0, 0, 0)
    assert result["received"] == 4 * result["sent"] > 500
    assert result["rotations"] >= 2
    assert result["reconnects"] >= 2 * result["rotations"]
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.long
def test_it_runs_in_the_shell_of_somebody_with_other_servers(temporary: Path) -> None:
    """Variables that point clients to other servers, and proxies, do not reach the demo's own."""
    options = ("--check", "1", "--rotate-every", "1")
    assert result_of(run_demo(temporary, *options, **ELSEWHERE))["received"] > 0


def test_taken_port_gets_a_sentence(temporary: Path) -> None:
    """A port somebody listens on ends the demo with one sentence that names it, and code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_demo(temporary, "--port", str(port))
    assert done.returncode == 2
    assert f"Port {port} is taken" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(temporary.iterdir()) == []


def test_missing_extra_gets_the_command_to_run(temporary: Path) -> None:
    """Without uvicorn the demo says what to install, and starts nothing."""
    hide = "import sys; sys.modules['uvicorn'] = None; sys.argv[0] = 'x'; "
    call = "from channels_pg_secrets.__main__ import main; raise SystemExit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", hide + call], cwd=temporary, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "uvicorn" in done.stderr
    assert "pip install 'channels-pg-secrets[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--port=0", "--port=http", "--check=0", "--adapter=none"])
def test_nonsense_is_refused_by_name(temporary: Path, option: str) -> None:
    """An option with a value that makes no sense is named with it, before anything is started."""
    done = run_demo(temporary, option)
    name, value = option.split("=")
    assert done.returncode == 2
    assert f"argument {name}" in done.stderr
    assert f"'{value}'" in done.stderr


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_ending_leaves_nothing_behind(
    temporary: Path, serve_demo: Callable[..., Any], ending: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end a serving demo with code 0, and no process or file stays."""
    with serve_demo() as (demo, address):
        with urlopen(address, timeout=10) as answer:
            assert b"<title>Chat" in answer.read()
        assert processes_of(temporary)
        demo.send_signal(ending)
        assert demo.wait(30) == 0
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


def test_early_ctrl_c_leaves_nothing_behind(temporary: Path) -> None:
    """Ctrl-C while the demo still starts ends it, and no process or file stays."""
    with subprocess.Popen(
        [*COMMAND, f"--port={free_port()}"],
        cwd=temporary,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as demo:
        deadline = time.monotonic() + 30
        while not list(temporary.glob("*/data")) and time.monotonic() < deadline:
            time.sleep(0.01)
        demo.send_signal(signal.SIGINT)
        _, said = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert b"Traceback" not in said
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.long
def test_killed_demo_takes_its_servers_along(
    temporary: Path, serve_demo: Callable[..., Any]
) -> None:
    """Even when the demo is killed, its servers and directories are gone soon after."""
    with serve_demo() as (demo, _):
        demo.kill()
        demo.wait(10)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (processes_of(temporary) or any(temporary.iterdir())):
            time.sleep(0.1)
        assert processes_of(temporary) == []
        assert list(temporary.iterdir()) == []
