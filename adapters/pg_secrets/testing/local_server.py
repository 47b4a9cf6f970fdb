"""What the servers for tests have in common: a process, a port and a directory of their own."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from pg_secrets.testing.process import (
    ServerNotStarted,
    ServerProcess,
    base_environment,
    free_port,
)

Server = TypeVar("Server", bound="LocalServer")


class LocalServer(ABC):
    """One server on 127.0.0.1, with a temporary directory that :meth:`stop` removes.

    A subclass says with which command it is started, and when it answers. Whatever way the owning
    process ends, the server ends with it. Not thread-safe.

    Raises:
        ServerNotStarted: it did not come up.
    """

    host = "127.0.0.1"
    #: What messages call it.
    title: ClassVar[str]
    #: What ends it at once.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Seconds until it has to answer.
    patience: ClassVar[float] = 60.0

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process: ServerProcess | None = None
        self._directory: Path | None = None

    @property
    def directory(self) -> Path:
        """Where its files are; raises when it is not running."""
        if self._directory is None:
            raise self._not_running()
        return self._directory

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The server's process id, for tests that freeze it; raises when it is not running."""
        if self._process is None:
            raise self._not_running()
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers."""
        if self.running:
            return
        self.stop()
        prefix = f"pg_secrets-{self.title.lower().replace(' ', '-')}-"
        self._directory = directory = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            self._process = ServerProcess(
                self._command(),
                directory=directory,
                log=directory / "log",
                environment=base_environment(HOME=str(directory), **self._environment()),
                stop_signal=self.stop_signal,
            )
            self._process.wait_until(self._answers, timeout=self.patience, name=self.title)
        except BaseException:  # an interrupt included: nobody else would end it
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(self.stop_signal)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def restart(self) -> None:
        """Stop and start again on the same port, with a new directory."""
        self.stop()
        self.start()

    def __enter__(self: Server) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return self._process.log_tail(lines) if self._process else ""

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return what to run; files it needs may be written to :attr:`directory` first."""

    def _environment(self) -> dict[str, str]:
        """Return what it needs in its environment beside the little that all servers have."""
        return {}

    def _answers(self) -> bool:
        """Say whether it is there; by default whether it takes connections."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    def _not_running(self) -> ServerNotStarted:
        return ServerNotStarted(f"{self.title} is not running")
