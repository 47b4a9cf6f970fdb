"""A secret mounted as Kubernetes mounts it, and somebody who rotates it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Protocol

import psycopg

from pg_secrets.testing.database import FreshDatabase, Login

logger = logging.getLogger(__name__)


class MountedSecret:
    """A directory in which all files change at one instant.

    ``username`` and ``password`` are links to ``..data``, itself a link to the folder with the
    present state, and that link is replaced by a rename. This is what the kubelet does.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._numbers = itertools.count(1)
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, login: Login) -> None:
        """Replace the whole secret at once."""
        state = self.directory / f"..{time.time_ns()}"
        state.mkdir(mode=0o700)
        for name, value in (("username", login.user), ("password", login.password)):
            (state / name).write_text(value)
            link = self.directory / name
            if not link.is_symlink():
                link.symlink_to(Path("..data") / name)
        data, new = self.directory / "..data", self.directory / "..data_tmp"
        old = data.resolve() if data.is_symlink() else None
        new.symlink_to(state.name)
        new.replace(data)
        if old is not None:
            shutil.rmtree(old)


class WrittenSecret(Protocol):
    """A place that a login is written to."""

    def write(self, login: Login) -> None:
        """Replace what is there."""


class SecretRotator:
    """Changes a login's password in the database and then where it is kept, for ever.

    In between there is a moment in which the secret is wrong, as there is in a real cluster. Half
    a period after each change every session that was opened before it is ended, so that whoever
    does not follow the rotation is cut off.
    """

    def __init__(
        self, database: FreshDatabase, login: Login, secret: WrittenSecret, *, period: float
    ) -> None:
        self.rotations = 0
        self._database = database
        self._login = login
        self._secret = secret
        self._period = period
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="secret-rotator", daemon=True)

    def start(self) -> None:
        """Begin; the first change comes after one period."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for a change under way."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.wait(self._period / 2):
            with contextlib.suppress(psycopg.OperationalError):
                self._rotate()
                if self._stopping.wait(self._period / 2):
                    return
                self._end_old_sessions()

    def _rotate(self) -> None:
        self._changed_at = self._database.execute("SELECT clock_timestamp()")[0][0]
        self._login = self._database.set_password(self._login.user)
        self._stopping.wait(0.1)
        self._secret.write(self._login)
        self.rotations += 1

    def _end_old_sessions(self) -> None:
        self._database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = %s AND backend_start < %s",
            (self._login.user, self._changed_at),
        )
