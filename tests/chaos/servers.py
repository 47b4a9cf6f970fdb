"""Servers that only the chaos runs need: two PostgreSQL servers that fail over, and PgBouncer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.process import (
    NOBODY,
    ServerProcess,
    base_environment,
    free_port,
)

_STATES = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"


class Couple:
    """A primary and its standby; after a fail-over the standby is the primary of a new one."""

    def __init__(self) -> None:
        self.primary = PostgresServer()
        self.primary.start()
        self.standby: PostgresServer | None = None
        #: Wherever it is at the moment.
        self.database = FreshDatabase(self.primary)
        self.ports = (self.primary.port, free_port())

    @property
    def addresses(self) -> dict[str, Any]:
        """What the layer's settings say of the two, whichever is the primary."""
        ports = ",".join(map(str, self.ports))
        only_primary = {"target_session_attrs": "read-write"}
        return {"HOST": "127.0.0.1,127.0.0.1", "PORT": ports, "OPTIONS": only_primary}

    def follow(self, *, synchronous: bool) -> None:
        """Give the primary a new standby, where the one before was.

        Where that is synchronous, a commit waits for it, unless its transaction says otherwise.
        """
        (port,) = set(self.ports) - {self.primary.port}
        self.standby = self.primary.standby(port=port)
        if synchronous:
            # Not before: commits would wait for a standby that is only being made.
            self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.primary.execute("SELECT pg_reload_conf()")
        state = "sync" if synchronous else "async"
        until = time.monotonic() + 20
        while self.primary.execute(_STATES) != [(state,)]:
            assert time.monotonic() < until, self.standby.log_tail()
            time.sleep(0.02)
        if synchronous:
            # That was the sender's word. Commits wait only when the checkpointer has read the
            # setting too, which it does before it answers.
            self.primary.execute("CHECKPOINT")

    def fail_over(self, *, crash: bool) -> None:
        """End the primary and promote its standby; a planned change ends it in order."""
        assert self.standby is not None
        self.primary.stop("immediate" if crash else "fast")
        self.primary.remove()
        self.primary, self.standby = self.standby, None
        self.primary.promote()
        self.database.server = self.primary

    def stop(self) -> None:
        """End both."""
        for server in (self.standby, self.primary):
            if server is not None:
                server.remove()


class PgBouncer:
    """One PgBouncer before a server. ``session``, ``statement``: the names for those modes.

    The database's own name is served in transaction mode. ``logins`` are those that may come in.
    """

    host = "127.0.0.1"

    def __init__(self, database: FreshDatabase, *logins: Login) -> None:
        self.port = free_port()
        self.session = f"{database.name}_session"
        self.statement = f"{database.name}_statement"
        self._directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        server = database.server
        place = f"host={server.host} port={server.port} dbname={database.name}"
        users = "".join(f'"{login.user}" "{login.password}"\n' for login in logins)
        self._write("users", users)
        self._write(
            "pgbouncer.ini",
            f"[databases]\n{database.name} = {place} pool_mode=transaction\n"
            f"{self.session} = {place} pool_mode=session\n"
            f"{self.statement} = {place} pool_mode=statement\n"
            f"[pgbouncer]\nlisten_addr = {self.host}\nlisten_port = {self.port}\n"
            "unix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = {self._directory / 'users'}\n"
            "default_pool_size = 50\nmax_client_conn = 500\n",
        )
        if _is_root():
            shutil.chown(self._directory, NOBODY, NOBODY)
        self.start()

    def start(self) -> None:
        """Start it and return when it takes connections."""
        self._process = ServerProcess(
            ["pgbouncer", self._directory / "pgbouncer.ini"],
            directory=self._directory,
            log=self._directory / "log",
            environment=base_environment(),
            stop_signal=signal.SIGTERM,
            as_nobody=_is_root(),
        )
        self._process.wait_until(self._accepts, timeout=20, name="PgBouncer")

    def stop(self) -> None:
        """End it at once, with all connections through it (SIGTERM, in version 1.18)."""
        self._process.stop(signal.SIGTERM)

    def restart(self) -> None:
        """Stop and start again on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        if _is_root():
            shutil.chown(path, NOBODY, NOBODY)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _is_root() -> bool:
    return os.geteuid() == 0
