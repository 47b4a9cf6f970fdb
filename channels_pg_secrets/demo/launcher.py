"""Starts everything the demo needs, in order, and takes it down again."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from channels_pg_secrets.demo.errors import DemoError
from channels_pg_secrets.demo.interrupts import Interrupts
from channels_pg_secrets.demo.progress import Progress
from channels_pg_secrets.demo.secret_store import STORES, SecretStore
from channels_pg_secrets.demo.server import shared_socket
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import ServerNotStarted, ServerProcess

SETTINGS = "channels_pg_secrets.demo.project.settings"


class Demo:
    """PostgreSQL, a secret store and two server processes on one port, as a context manager.

    However it ends, the children and their directories go with it.

    Raises:
        DemoError: something is missing, taken or broken.
        KeyboardInterrupt: Ctrl-C or SIGTERM came between two steps.
    """

    host = "127.0.0.1"
    servers = 2

    def __init__(
        self,
        *,
        adapter: str,
        port: int,
        rotate_every: float,
        interrupts: Interrupts,
        progress: Progress,
    ) -> None:
        self.adapter = adapter
        self.port = port
        self.rotate_every = rotate_every
        self.url = f"http://{self.host}:{port}/"
        self._interrupts = interrupts
        self._progress = progress
        self._stack = ExitStack()
        self._processes: list[ServerProcess] = []
        self._variables: dict[str, str] = {}
        self._begun = False

    def __enter__(self) -> Demo:
        try:
            self._start()
        except BaseException as error:
            self._stop()
            if isinstance(error, ServerNotStarted):
                raise DemoError(str(error)) from error
            if isinstance(error, psycopg.Error):
                raise DemoError(f"PostgreSQL: {error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def wait(self, seconds: float) -> None:
        """Sleep for so long at most, and see that the servers are well; Ctrl-C may interrupt it.

        Raises:
            DemoError: a server process has ended.
        """
        with self._interrupts.allowed():
            time.sleep(seconds)
        for server in self._processes:
            if not server.running:
                raise DemoError(f"a server process ended; its last lines:\n{server.log_tail()}")

    def _stop(self) -> None:
        self._interrupts.ignore()
        if self._begun:
            self._progress.say("  Stopping everything …")
        self._stack.close()
        if self._begun:
            self._progress.say("  Nothing is left behind.")

    def _start(self) -> None:
        self._reserve_port()
        self._begun = True
        self._directory = Path(tempfile.mkdtemp(prefix="channels-pg-secrets-demo-"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        with self._progress.step("Starting PostgreSQL"):
            self._postgres = self._stack.enter_context(PostgresServer())
            self._database = FreshDatabase(self._postgres, "chat")
            self._database.create()
        store = STORES[self.adapter](
            self._database, self._directory, self._progress, period=self.rotate_every
        )
        self._stack.callback(store.stop)
        store.start()
        self._variables = store.environment
        with self._progress.step("Creating tables and functions, as their owner"):
            self._migrate(store)
        with self._progress.step(f"Starting {self.servers} server processes"):
            self._serve(store)

    def _reserve_port(self) -> None:
        try:
            # Taken alone first, since sharing would join whoever shares it already.
            with socket.socket() as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((self.host, self.port))
            self._stack.enter_context(shared_socket(self.host, self.port))
        except OSError as error:
            trouble = "is taken" if error.errno == errno.EADDRINUSE else "cannot be used"
            raise DemoError(
                f"Port {self.port} {trouble} ({error.strerror}); choose another with --port."
            ) from error

    def _migrate(self, store: SecretStore) -> None:
        owner = self._database.owner.user
        options = {"OPTIONS": {"assume_role": owner}}
        configuration = self._write_configuration("owner", store.owner_credentials(), **options)
        self._manage(configuration, "migrate", "--verbosity", "0")
        for statement in self._grants(configuration):
            self._database.execute(statement)

    def _grants(self, configuration: Path) -> list[str]:
        """Return what the servers' role may do: the layer's functions, and the chat's own table."""
        role = self._database.runtime
        command = ["channels_pg_secrets", "grants", "--json", f"--role={role}"]
        printed = json.loads(self._manage(configuration, *command))
        return [
            *printed["before_migrate"],
            *printed["after_migrate"],
            f'GRANT SELECT, INSERT ON demo_chat_message TO "{role}"',
            f'GRANT USAGE ON SEQUENCE demo_chat_message_id_seq TO "{role}"',
        ]

    def _manage(self, configuration: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=self._environment(configuration),
            cwd=self._directory,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        if done.returncode:
            raise DemoError(f"'{arguments[0]}' failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _serve(self, store: SecretStore) -> None:
        configuration = self._write_configuration("chat", store.runtime_credentials())
        ready = []
        for number in range(1, self.servers + 1):
            ready.append(self._directory / f"server-{number}-is-ready")
            self._processes.append(self._server(number, configuration, ready[-1]))
            self._stack.callback(self._processes[-1].stop, signal.SIGTERM)
        for server, file in zip(self._processes, ready, strict=True):
            server.wait_until(file.exists, timeout=60, name="a server process")

    def _server(self, number: int, configuration: Path, ready: Path) -> ServerProcess:
        options = [f"--host={self.host}", f"--port={self.port}", f"--ready={ready}"]
        return ServerProcess(
            [sys.executable, "-m", "channels_pg_secrets.demo.server", *options],
            directory=self._directory,
            log=self._directory / f"server-{number}.log",
            environment=self._environment(
                configuration, CHANNELS_PG_SECRETS_DEMO_SERVER=str(number)
            ),
            stop_signal=signal.SIGTERM,
        )

    def _write_configuration(self, name: str, credentials: dict[str, Any], **more: Any) -> Path:
        file = self._directory / f"{name}.json"
        file.touch(mode=0o600)
        content = {
            "database": {**self._database.settings(), **more},
            "credentials": credentials,
            "rotate_every": self.rotate_every,
            "secret_key": secrets.token_urlsafe(32),
        }
        file.write_text(json.dumps(content))
        return file

    def _environment(self, configuration: Path, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "CHANNELS_PG_SECRETS_DEMO": str(configuration),
            "DJANGO_SETTINGS_MODULE": SETTINGS,
            **self._variables,
            **more,
        }
