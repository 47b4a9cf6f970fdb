"""Real WebSocket clients that talk to the running servers and count every message."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin

from channels_pg_secrets.demo.errors import DemoError
from channels_pg_secrets.demo.ledger import Ledger
from channels_pg_secrets.timeouts import timeout

ROOMS = ("check-1", "check-2", "check-3")
CLIENTS_PER_SERVER = 2
INTERVAL = 0.2
CONNECT_ATTEMPTS = 200
DRAIN_SECONDS = 15.0


@dataclass
class Figures:
    """The last figures heard from each server, and the first, to see what changed."""

    first: dict[int, dict[str, Any]] = field(default_factory=dict)
    last: dict[int, dict[str, Any]] = field(default_factory=dict)

    def hear(self, figures: dict[str, Any]) -> None:
        """Take note of one server's figures."""
        self.first.setdefault(figures["server"], figures)
        self.last[figures["server"]] = figures

    def grown(self, key: str) -> list[int]:
        """Return by how much a counter grew, for each server."""
        return [figures[key] - self.first[number][key] for number, figures in self.last.items()]


@dataclass
class Client:
    """One person in one room."""

    name: str
    room: str
    server: int
    socket: ClientConnection


class Check:
    """Runs ``CLIENTS_PER_SERVER`` clients per room and server for a while; use it once.

    Raises:
        DemoError: the clients could not connect to every server.
    """

    def __init__(self, host: str, port: int, *, servers: int, seconds: float) -> None:
        self._address = f"ws://{host}:{port}/rooms/"
        self._origin = Origin(f"http://{host}:{port}")
        self._servers = servers
        self._seconds = seconds
        self._figures = Figures()
        self._errors: list[str] = []

    async def run(self) -> dict[str, Any]:
        """Connect, talk for the given time, wait for stragglers, and return the result."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [client for room in ROOMS for client in await self._join(room, stack)]
            self._ledger = Ledger(
                {room: frozenset(c.name for c in clients if c.room == room) for room in ROOMS}
            )
            listening = [asyncio.create_task(self._listen(client)) for client in clients]
            try:
                await self._wait_for_figures()
                began = time.monotonic()
                await asyncio.gather(*(self._talk(client, began) for client in clients))
                await self._drain()
            finally:
                for task in listening:
                    task.cancel()
                await asyncio.gather(*listening, return_exceptions=True)
        return self._result(len(clients))

    async def _join(self, room: str, stack: contextlib.AsyncExitStack) -> list[Client]:
        """Connect until every server has its share; the kernel decides who gets which."""
        wanted = dict.fromkeys(range(1, self._servers + 1), CLIENTS_PER_SERVER)
        clients: list[Client] = []
        for _ in range(CONNECT_ATTEMPTS):
            socket = await connect(
                f"{self._address}{room}/", origin=self._origin, open_timeout=20, max_queue=None
            )
            async with timeout(20):
                hello = json.loads(await socket.recv())
                while hello["type"] != "hello":
                    hello = json.loads(await socket.recv())
            if wanted[hello["server"]]:
                stack.push_async_callback(socket.close)
                wanted[hello["server"]] -= 1
                clients.append(Client(hello["sender"], room, hello["server"], socket))
            else:
                await socket.close()
            if not any(wanted.values()):
                return clients
        raise DemoError("the clients did not reach every server process")

    async def _listen(self, client: Client) -> None:
        try:
            async for text in client.socket:
                message = json.loads(text)
                match message["type"]:
                    case "beat":
                        self._ledger.receive(message["id"], client.name, time.monotonic())
                    case "figures":
                        self._figures.hear(message)
                    case "refused":
                        self._errors.append(message["why"])
                        self._ledger.refuse(message["id"])
            self._errors.append("a server closed a connection")
        except WebSocketException as error:
            self._errors.append(str(error))

    async def _talk(self, client: Client, began: float) -> None:
        for number in itertools.count():
            wait = began + number * INTERVAL - time.monotonic()
            await asyncio.sleep(max(0.0, wait))
            if time.monotonic() - began >= self._seconds:
                return
            id_ = f"{client.name}-{number}"
            self._ledger.send(id_, client.room, time.monotonic())
            try:
                await client.socket.send(json.dumps({"type": "beat", "id": id_}))
            except WebSocketException as error:
                self._errors.append(str(error))
                return

    async def _wait_for_figures(self) -> None:
        deadline = time.monotonic() + 20
        while len(self._figures.first) < self._servers:
            if time.monotonic() > deadline:
                raise DemoError("a server process did not report its figures")
            await asyncio.sleep(0.05)

    async def _drain(self) -> None:
        """Wait until nothing is due any more, and then for anything that comes twice."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._ledger.lost and time.monotonic() < deadline:  # noqa: ASYNC110 - any client
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)

    def _result(self, clients: int) -> dict[str, Any]:
        ledger = self._ledger
        return {
            "sent": ledger.sent,
            "received": ledger.received,
            "lost": ledger.lost,
            "duplicated": ledger.duplicated + ledger.unknown,
            # What every server went through, not the sum over them.
            "rotations": min(self._figures.grown("rotations")),
            "reconnects": sum(self._figures.grown("reconnects")),
            "errors": len(self._errors),
            "first_error": self._errors[0] if self._errors else None,
            "seconds": self._seconds,
            "servers": self._servers,
            "clients": clients,
            "p50_ms": ledger.delay_ms(0.5),
            "p99_ms": ledger.delay_ms(0.99),
        }
