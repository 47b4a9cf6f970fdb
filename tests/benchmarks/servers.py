"""PostgreSQL and Redis for one run, and what is counted on them."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from channels_pg_secrets.management.grants import Grants
from pg_secrets.testing.local_server import LocalServer
from pg_secrets.testing.postgres import PostgresServer
from tests.benchmarks import contenders, resources, settings
from tests.benchmarks.logins import RUNTIME

_TEMPLATE = "migrated"
#: What differs from a server as it is shipped, here or in what tests use, and may change its speed.
_SETTINGS = ("fsync", "shared_buffers", "max_connections", "max_locks_per_transaction")
_REDIS_DATABASES = {"channels_redis": 1, "channels_redis_pubsub": 2}


class Servers:
    """The servers of a run. With ``durable`` PostgreSQL waits for the disk at each commit.

    It does not by default, as Redis does not either: otherwise the disk would be measured.
    """

    def __init__(self, *, durable: bool = False, redis: bool = True) -> None:
        settings = {
            "fsync": "on" if durable else "off",
            # channels_postgres opens a pool for each process, and a listener.
            "max_connections": "1000",
        }
        # channels_postgres takes a lock for each channel that is received on.
        settings["max_locks_per_transaction"] = "256"
        # On the disk, where its temporary files lie on a server too.
        directory = Path(tempfile.gettempdir()) / f"benchmarks-{secrets.token_hex(8)}"
        self._postgres = PostgresServer(directory, settings=settings)
        self._redis = Redis() if redis and shutil.which("redis-server") else None
        self._numbers = itertools.count()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Servers:
        with contextlib.ExitStack() as opening:
            opening.enter_context(self._postgres)
            if self._redis is not None:
                opening.enter_context(self._redis)
            self._postgres.create_database(_TEMPLATE)
            settings.configure(self._database(_TEMPLATE))
            settings.migrate()
            self._prepare_roles()
            self._open = opening.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def missing(self, name: str) -> str | None:
        """Return why a layer cannot be measured here at all, or None."""
        if name in contenders.ON_REDIS and self._redis is None:
            return "there is no redis-server on the path"
        return contenders.missing(name)

    def place(self, name: str) -> dict[str, Any]:
        """Return a database of its own for a layer, on whichever server it uses."""
        if name in contenders.ON_POSTGRES:
            database = f"bench_{next(self._numbers)}"
            self._postgres.execute(f"CREATE DATABASE {database} TEMPLATE {_TEMPLATE}")
            return {"database": self._database(database)}
        if self._redis is not None and name in _REDIS_DATABASES:
            return {"redis": self._redis.emptied(_REDIS_DATABASES[name])}
        return {}

    def clear(self, place: dict[str, Any]) -> None:
        """Remove what was made for a layer."""
        if "database" in place:
            self._postgres.drop_database(place["database"]["NAME"])

    def execute(self, query: str, params: Any = None, dbname: str = "postgres") -> list[Any]:
        """Run one statement as superuser, from outside of what is measured."""
        return self._postgres.execute(query, params, dbname=dbname)

    def cpu(self, name: str) -> float:
        """Return the CPU seconds of the server that a layer uses, 0 where it uses none."""
        if name in contenders.ON_POSTGRES:
            process = self._postgres._process
            return resources.server_cpu(process.pid) if process is not None else 0.0
        if name in contenders.ON_REDIS and self._redis is not None:
            return resources.server_cpu(self._redis.pid)
        return 0.0

    def opened(self, place: dict[str, Any]) -> int:
        """Return how many connections were ever opened in a place."""
        if "database" in place:
            query = "SELECT sessions FROM pg_stat_database WHERE datname = %s"
            # A session is counted when it is idle for the first time.
            time.sleep(0.2)
            return int(self.execute(query, (place["database"]["NAME"],))[0][0])
        if self._redis is not None and "redis" in place:
            return self._redis.opened()
        return 0

    def connections(self, place: dict[str, Any]) -> list[int]:
        """Return how many connections each process has open in a place."""
        if "database" in place:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
                " AND backend_type = 'client backend' GROUP BY application_name"
            )
            return [count for (count,) in self.execute(query, (place["database"]["NAME"],))]
        if self._redis is not None and "redis" in place:
            return self._redis.connections(place["redis"])
        return []

    def users(self, place: dict[str, Any]) -> set[str]:
        """Return whose sessions are open in a place on PostgreSQL."""
        query = (
            "SELECT DISTINCT usename::text FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'"
        )
        return {user for (user,) in self.execute(query, (place["database"]["NAME"],))}

    def changed(self) -> dict[str, str]:
        """Return PostgreSQL's settings that are not as it is shipped, and may change its speed."""
        query = (
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s) ORDER BY name"
        )
        return dict(self.execute(query, (list(_SETTINGS),)))

    def versions(self) -> dict[str, str]:
        """Return the servers' versions."""
        found = {"PostgreSQL": str(self.execute("SHOW server_version")[0][0])}
        if self._redis is not None:
            found["redis-server"] = self._redis.version()
        return found

    def _database(self, name: str) -> dict[str, Any]:
        return settings.database(self._postgres, name)

    def _prepare_roles(self) -> None:
        self.execute(f"CREATE ROLE {RUNTIME} NOLOGIN")
        grants = Grants(self._postgres.superuser, RUNTIME, _TEMPLATE, "public")
        for statement in grants.after_migrate():
            self.execute(statement, dbname=_TEMPLATE)


class Redis(LocalServer):
    """A Redis server of our own, with its shipped defaults but for saving to disk."""

    # Not pg_secrets.testing's: that has a password, which each new connection would have to say.
    title = "Redis"
    patience = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def emptied(self, number: int) -> str:
        """Empty one of the databases and return its address."""
        self._ask(f"SELECT {number}\r\nFLUSHDB")
        return f"redis://{self.host}:{self.port}/{number}"

    def opened(self) -> int:
        """Return how many connections were opened, our own ones left out."""
        text = self._ask("INFO stats")
        line = next(line for line in text.splitlines() if line.startswith("total_connections"))
        return int(line.partition(":")[2]) - self._asked

    def connections(self, address: str) -> list[int]:
        """Return how many connections are open to one of the databases, subscribers included."""
        number = address.rpartition("/")[2]
        text = self._ask("CLIENT LIST")
        return [sum(f"db={number}" in line.split() for line in text.splitlines())]

    def version(self) -> str:
        """Return the server's version."""
        text = self._ask("INFO server")
        line = next(line for line in text.splitlines() if line.startswith("redis_version"))
        return line.partition(":")[2].strip()

    def _command(self) -> list[str | Path]:
        address = ["--port", str(self.port), "--bind", self.host]
        return ["redis-server", *address, "--save", "", "--dir", self.directory]

    def _ask(self, command: str) -> str:
        # In Redis' own inline form, so that no client is needed for it.
        with socket.create_connection((self.host, self.port), 5) as connection:
            self._asked += 1
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
