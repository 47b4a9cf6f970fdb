"""The demo as a process, for the tests of its behaviour and of its page."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pg_secrets.testing.canary import Hunt
from pg_secrets.testing.process import free_port

COMMAND = [sys.executable, "-m", "channels_pg_secrets", "demo"]
Served = AbstractContextManager[tuple[subprocess.Popen[str], str]]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory open to all (servers may run as another user), to be found empty at the end."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


@contextmanager
def _serve(
    temporary: Path, options: tuple[str, ...]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    with subprocess.Popen(
        [*COMMAND, f"--port={port}", "--no-browser", *options],
        cwd=temporary,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            assert demo.stderr is not None
            said = ""
            while "The chat is at" not in said:
                line = demo.stderr.readline()
                assert line, said
                said += line
            yield demo, f"http://127.0.0.1:{port}/"
        finally:
            if demo.poll() is None:
                demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=30)


@pytest.fixture
def serve_demo(temporary: Path) -> Callable[..., Served]:
    """Call it with options for a demo that serves: its process and address, ended by Ctrl-C."""

    def serve(*options: str) -> Served:
        return _serve(temporary, options)

    return serve


@pytest.fixture
def hunt() -> Hunt:
    """A password to use, and the hunt for it."""
    return Hunt("test_canary.py")


@pytest.fixture
def in_no_log(hunt: Hunt, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, no logger is told the password at any level."""
    with caplog.at_level(logging.DEBUG):
        yield
    hunt.in_text("the log", caplog.text)
    for record in caplog.records:
        hunt.in_text("a log record", repr(vars(record)))
        hunt.in_text("a log record's arguments", repr(record.args))
