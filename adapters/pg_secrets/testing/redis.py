"""A real Redis for tests, from the ``redis-server`` on the path."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pg_secrets.testing.local_server import LocalServer
from pg_secrets.testing.process import ServerNotInstalled

if TYPE_CHECKING:
    import redis


class RedisServer(LocalServer):
    """One Redis on 127.0.0.1 that keeps nothing on disk and asks everybody for a password.

    ``password`` is the default user's. Other users are gone after :meth:`stop`.

    Raises:
        ServerNotInstalled: there is no ``redis-server`` on the path.
        ServerNotStarted: it did not come up.
    """

    title = "Redis"
    patience = 30.0

    def __init__(self, *, port: int | None = None, binary: Path | None = None) -> None:
        super().__init__(port=port)
        self.password = secrets.token_urlsafe(16)
        self._binary = binary or find_binary()

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        return self.directory / "socket"

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

    def _command(self) -> list[str | Path]:
        # A file, since everybody may read a process's arguments.
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind {self.host}\nport {self.port}\nunixsocket {self.socket}\n"
            f'dir {self.directory}\nsave ""\nrequirepass {self.password}\n'
        )
        return [self._binary, configuration]

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.execute("PING"))
        except redis.ConnectionError:
            return False


def find_binary() -> Path:
    """Return the path of ``redis-server``.

    Raises:
        ServerNotInstalled: it is not on the path.
    """
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise ServerNotInstalled("there is no 'redis-server' on the path")
    return Path(on_path)
