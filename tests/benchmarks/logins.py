"""A database login that rotates: another role each time, the one before it dropped."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks.servers import Servers

#: The role that has the rights; logins are members of it.
RUNTIME = "bench_runtime"
_numbers = itertools.count(1)


class RotatingLogin:
    """A login in a file that the layer reads with the ``files`` adapter."""

    def __init__(self, servers: Servers, folder: str) -> None:
        self._servers = servers
        self._file = Path(folder, "login.json")
        self._roles: list[str] = []
        self.rotations = 0
        self._change()

    @property
    def newest(self) -> str:
        """The role that the file names."""
        return self._roles[-1]

    @property
    def place(self) -> dict[str, Any]:
        """What the layer has to be told."""
        return {"login": str(self._file)}

    def rotate(self) -> None:
        """Make another role, and end and drop the one before the last."""
        self._change()
        self.rotations += 1
        while len(self._roles) > 2:
            self._drop(self._roles.pop(0))

    def remove(self) -> None:
        """Drop the roles that are left."""
        for role in self._roles:
            self._drop(role)

    def _change(self) -> None:
        role, password = f"bench_login_{next(_numbers)}", secrets.token_urlsafe(12)
        self._servers.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE {RUNTIME}")
        self._roles.append(role)
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps({"username": role, "password": password}))
        new.replace(self._file)

    def _drop(self, role: str) -> None:
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        self._servers.execute(query, (role,))
        self._servers.execute(f"DROP ROLE {role}")


@asynccontextmanager
async def rotating(login: RotatingLogin, every: float) -> AsyncIterator[None]:
    """Rotate at once, and then every so many seconds, for as long as the block runs.

    A rotation that fails is raised at the end: without it there was none.
    """

    async def run() -> None:
        while True:
            await asyncio.to_thread(login.rotate)
            await asyncio.sleep(every)

    task = asyncio.ensure_future(run())
    try:
        yield
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the login's file."""
    return tempfile.TemporaryDirectory(prefix="bench-login-")
