"""Layers on a migrated database of a real server, and other processes that use them."""

from __future__ import annotations

import asyncio
import json
import runpy
import secrets
import select
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import homes
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.management.grants import Grants
from channels_pg_secrets.sql import install
from pg_secrets.source import CredentialSource
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.proxy import FaultProxy

if not settings.configured:
    _module = runpy.run_path(str(Path(__file__).parents[2] / "settings.py"))
    settings.configure(**{name: value for name, value in _module.items() if name.isupper()})
django.setup()

PEER = Path(__file__).with_name("peer.py")
#: Seconds that a peer may take for what it is asked.
ANSWER_TIMEOUT = 60.0


def migrate(database: FreshDatabase) -> None:
    """Make tables and functions as the migration does, as the owner, with the runtime's rights.

    Not by Django, whose own part of it takes longer than all the rest; that is done in the tests
    of tests/integration/django and of the examples.
    """
    with psycopg.connect(**database.connection_params(), autocommit=True) as owner:
        functions = []
        for name in ("tables.sql", "internals_v1.sql", "functions_v1.sql"):
            owner.execute(install.read(name).replace("@schema@", "public"))
            functions += install.created("FUNCTION", name)
        owner.execute(f"REVOKE ALL ON FUNCTION {', '.join(functions)} FROM PUBLIC".encode())
        grants = Grants(database.owner.user, database.runtime, database.name, "public")
        owner.execute("".join(grants.after_migrate()).encode())


class Layers:
    """Makes layers in one database under one prefix; each is a node as if of its own process."""

    def __init__(self, database: FreshDatabase) -> None:
        self.database = database
        self.prefix = f"t{secrets.token_hex(6)}"
        self.login = database.login()
        self.made: list[PostgresChannelLayer] = []

    def __call__(
        self,
        *,
        login: Login | None = None,
        credentials: CredentialSource | None = None,
        **options: Any,
    ) -> PostgresChannelLayer:
        """Make one; with ``credentials`` neither user nor password stand in its settings."""
        engine = PostgresEngine(self.settings(login, credentials), credentials)
        layer = engine.channel_layer(**{"prefix": self.prefix, **options})
        assert isinstance(layer, PostgresChannelLayer)
        self.made.append(layer)
        return layer

    def settings(
        self, login: Login | None = None, credentials: CredentialSource | None = None
    ) -> dict[str, Any]:
        """Return the connection settings of ``CONFIG``."""
        return self.database.settings(None if credentials else login or self.login)

    def backends(self, user: str | None = None) -> int:
        """Return how many sessions a login has open."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        return int(self.database.execute(query, (user or self.login.user,))[0][0])

    async def close(self) -> None:
        for layer in self.made:
            await layer.close()


class Peer:
    """Another process with a layer of its own, which does what it is asked (see ``peer.py``).

    ``program`` may be another than that, which answers in the same way.
    """

    def __init__(self, config: dict[str, Any], program: Path = PEER) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __call__(self, verb: str, *arguments: Any) -> Any:
        """Ask for one thing and return the answer; one at a time."""
        return await asyncio.to_thread(self._ask, verb, arguments)

    def _ask(self, verb: str, arguments: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            print(json.dumps([verb, *arguments]), file=self._process.stdin, flush=True)
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT)
            assert ready, f"the peer does not answer when asked to {verb}"
            answer = self._process.stdout.readline()
        assert answer, f"the peer ended with {self._process.wait(10)} when asked to {verb}"
        kind, value = json.loads(answer)
        assert kind == "result", value
        return value

    def close(self) -> None:
        """End it, and find out whether it ended well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._process.stdout.close()
        assert status == 0


@pytest.fixture(scope="session")
def layer_database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A migrated database that the tests share, each under a prefix of its own."""
    with FreshDatabase(postgres_server) as fresh:
        migrate(fresh)
        yield fresh


@pytest.fixture
def own_database(database: FreshDatabase) -> FreshDatabase:
    """A migrated database for one test alone."""
    migrate(database)
    return database


@pytest.fixture
async def layers(layer_database: FreshDatabase) -> AsyncIterator[Layers]:
    """Makes layers that know each other and nobody else."""
    made = Layers(layer_database)
    yield made
    await made.close()


@pytest.fixture
async def own_layers(own_database: FreshDatabase) -> AsyncIterator[Layers]:
    """Makes layers in a database in which nothing else happens."""
    made = Layers(own_database)
    yield made
    await made.close()


@pytest.fixture
def home_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that only sends does not become home: on a slow machine it would during the fault."""
    monkeypatch.setattr(homes, "FIRST_TRIAL", 3600.0)


@pytest.fixture
def proxy(layers: Layers, home_stays: None) -> Iterator[FaultProxy]:
    """Between a layer and its server."""
    with FaultProxy(layers.database.server.port) as fault_proxy:
        yield fault_proxy


@pytest.fixture
def peers(layers: Layers) -> Iterator[Callable[..., Peer]]:
    """Starts processes whose layers know those of ``layers``."""
    started: list[Peer] = []

    def start(**options: Any) -> Peer:
        peer = Peer({**layers.settings(), "prefix": layers.prefix, **options})
        started.append(peer)
        return peer

    yield start
    for peer in started:
        peer.close()


Condition = Callable[[], Any]


async def _eventually(condition: Condition, timeout: float = 10.0) -> Any:
    until = time.monotonic() + timeout
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < until, "what was waited for did not happen"
        await asyncio.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Waits until a function (or coroutine function) returns something true, and returns that."""
    return _eventually


async def _soon(layer: Any, channel: str, timeout: float = 10.0) -> dict[str, Any]:
    message: dict[str, Any] = await asyncio.wait_for(layer.receive(channel), timeout)
    return message


@pytest.fixture
def soon() -> Callable[..., Awaitable[dict[str, Any]]]:
    """Receives one message, and fails where there is none within ten seconds."""
    return _soon


async def _nothing(layer: Any, channel: str, within: float = 0.1) -> bool:
    try:
        await asyncio.wait_for(layer.receive(channel), within)
    except (TimeoutError, asyncio.TimeoutError):
        return True
    return False


@pytest.fixture
def nothing() -> Callable[..., Awaitable[bool]]:
    """Says whether a channel stays empty for a moment."""
    return _nothing


class Stream:
    """Messages on their way from one layer to a channel of another, as long as the block lasts.

    At its end all that was sent must have arrived: nothing lost, nothing twice, all in order.
    """

    def __init__(self, sender: Any, receiver: Any, channel: str, *, group: str = "") -> None:
        self._sender = sender
        self._receiver = receiver
        self._channel = channel
        self._group = group
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self.sent = 0
        self.received: list[int] = []

    async def more(self, count: int = 20) -> None:
        """Wait until so many more have arrived."""
        until = len(self.received) + count
        await _eventually(lambda: len(self.received) >= until, timeout=20)

    async def __aenter__(self) -> Stream:
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        await self.more(1)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stopped = True
        sending, receiving = self._tasks
        try:
            await asyncio.wait_for(sending, 20)
            if exception[0] is None:
                await _eventually(lambda: len(self.received) >= self.sent, timeout=15)
                await asyncio.sleep(0.1)  # for what might come twice
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        if exception[0] is None:
            assert self.received == list(range(self.sent))

    async def _send(self) -> None:
        while not self._stopped:
            message = {"type": "test", "id": self.sent}
            if self._group:
                await self._sender.group_send(self._group, message)
            else:
                await self._sender.send(self._channel, message)
            self.sent += 1
            await asyncio.sleep(0.002)

    async def _receive(self) -> None:
        while True:
            self.received.append((await self._receiver.receive(self._channel))["id"])


@pytest.fixture
def stream() -> type[Stream]:
    """Keeps messages flowing during a block, and checks that all arrived once and in order."""
    return Stream
