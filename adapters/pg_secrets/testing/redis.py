"""A real Redis for tests, from the ``redis-server`` on the path."""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pg_secrets.testing.process import (
    ServerNotStarted,
    ServerProcess,
    base_environment,
    free_port,
)

if TYPE_CHECKING:
    import redis


class RedisServer:
    """One Redis on 127.0.0.1 that keeps nothing on disk and asks everybody for a password.

    ``password`` is the default user's. Whatever way the owning process ends, the server ends with
    it. All it knew, its users included, is gone after :meth:`stop`. Not thread-safe.

    Raises:
        ServerNotStarted: there is no ``redis-server`` on the path, or it did not come up.
    """

    host = "127.0.0.1"

    def __init__(self, *, port: int | None = None, binary: Path | None = None) -> None:
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(16)
        self._binary = binary or find_binary()
        self._process: ServerProcess | None = None
        self._directory: Path | None = None

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        if self._directory is None:
            raise ServerNotStarted("Redis is not running")
        return self._directory / "socket"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The server's process id, for tests that freeze it; raises when it is not running."""
        if self._process is None:
            raise ServerNotStarted("Redis is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers."""
        if self.running:
            return
        self._directory = Path(tempfile.mkdtemp(prefix="pg_secrets-redis-"))
        # A file, since everybody may read a process's arguments.
        configuration = self._directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind {self.host}\nport {self.port}\nunixsocket {self.socket}\n"
            f'dir {self._directory}\nsave ""\nrequirepass {self.password}\n'
        )
        self._process = ServerProcess(
            [self._binary, configuration],
            directory=self._directory,
            log=self._directory / "log",
            environment=base_environment(),
            stop_signal=signal.SIGTERM,
        )
        try:
            self._process.wait_until(self._answers, timeout=30, name="Redis")
        except BaseException:  # an interrupt included: nobody else would end it
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def restart(self) -> None:
        """Stop and start again on the same port, with the default user alone."""
        self.stop()
        self.start()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def client(self) -> redis.Redis:
        """Return the default user's client, which decodes answers; the caller closes it."""
        import redis

        return redis.Redis(
            host=self.host, port=self.port, password=self.password, decode_responses=True
        )

    def execute(self, *command: str | int) -> Any:
        """Run one command as the default user and return its answer, decoded."""
        with self.client() as client:
            return client.execute_command(*map(str, command))

    def set_user(self, name: str, password: str, *rules: str) -> None:
        """Make a user, or replace one's password and rules; his sessions stay as they are."""
        self.execute("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)

    def delete_user(self, name: str) -> None:
        """Delete a user, which ends his sessions."""
        self.execute("ACL", "DELUSER", name)

    def users(self) -> list[str]:
        """Return the user of each session but this one, in order."""
        with self.client() as client:
            own = str(client.client_id())
            return sorted(
                session["user"] for session in client.client_list() if session["id"] != own
            )

    def refusals(self) -> int:
        """Return how many logins were refused since the server started."""
        with self.client() as client:
            entries: Any = client.acl_log(100)
        return sum(int(entry["count"]) for entry in entries if entry["reason"] == "auth")

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return self._process.log_tail(lines) if self._process else ""

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.execute("PING"))
        except redis.ConnectionError:
            return False


def find_binary() -> Path:
    """Return the path of ``redis-server``.

    Raises:
        ServerNotStarted: it is not on the path.
    """
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise ServerNotStarted("there is no 'redis-server' on the path")
    return Path(on_path)
