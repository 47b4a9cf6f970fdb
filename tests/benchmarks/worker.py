"""One process of a workload: answers the driver's requests with a layer of its own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from channels.layers import BaseChannelLayer

from tests.benchmarks import contenders, resources
from tests.benchmarks.alone import Alone
from tests.benchmarks.receivers import Receivers
from tests.benchmarks.senders import Senders

#: Bytes of one request or answer, at most.
LIMIT = 1 << 20


class Worker:
    """Takes part in workloads. ``settle`` and ``patience`` are seconds, see Receivers.

    ``build`` makes one more layer like its own. If ``apart``, it sends by another one than it
    receives by, so that its messages to itself take the way of those to another process.
    """

    def __init__(
        self,
        build: Callable[[], BaseChannelLayer],
        settle: float,
        patience: float,
        *,
        apart: bool = False,
    ) -> None:
        layer = build()
        self._build = build
        self._idle: list[asyncio.Task[Any]] = []
        self._parts = (
            Receivers(layer, settle, patience),
            Senders(build() if apart else layer),
            Alone(layer, settle),
        )

    async def usage(self, reset: bool = False) -> dict[str, Any]:
        """Return what this process has used."""
        return resources.usage(reset=reset)

    async def connect(self, layers: int) -> dict[str, Any]:
        """Keep so many more layers connected that receive nothing: to the server, processes."""
        while len(self._idle) < layers:
            layer = self._build()
            channel = await layer.new_channel()
            self._idle.append(asyncio.create_task(layer.receive(channel)))
        return {"connected": len(self._idle)}

    async def __call__(self, do: str, /, **request: Any) -> dict[str, Any]:
        """Do what is asked; the names are those of the public methods of the parts."""
        for part in (self, *self._parts):
            if not do.startswith("_") and hasattr(part, do):
                answer: dict[str, Any] = await getattr(part, do)(**request)
                return answer
        raise LookupError(f"no worker can {do}")


async def serve(connection: socket.socket, name: str, place: dict[str, Any]) -> None:
    """Answer requests, one a line, until the driver hangs up."""
    worker = Worker(
        lambda: contenders.build(name, place),
        place["settle"],
        place["patience"],
        apart=place.get("apart", False),
    )
    reader, writer = await asyncio.open_connection(sock=connection, limit=LIMIT)
    while line := await reader.readline():
        try:
            answer = await _answered(worker, json.loads(line))
        except Exception as error:  # noqa: BLE001  (whatever it is, the driver reports it)
            answer = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()


async def _answered(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    return await worker(request.pop("do"), **request)


def run(connection: socket.socket, name: str, place: dict[str, Any]) -> None:
    """Be a worker, in a process made for it."""
    # libpq tells the server, where connections are counted by process.
    os.environ["PGAPPNAME"] = f"worker {os.getpid()}"
    asyncio.run(serve(connection, name, place))
