"""The processes of one layer in one workload, as the driver sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any, Protocol

from tests.benchmarks.nursery import Nursery
from tests.benchmarks.worker import LIMIT, Worker


class CannotDo(Exception):
    """A worker could not do what it was asked for; the text is for the report."""


class Team(Protocol):
    """Several workers with the same layer, numbered from 0."""

    async def ask(self, number: int, do: str, /, **request: Any) -> dict[str, Any]:
        """Have one worker do something. Raises CannotDo."""

    def __len__(self) -> int: ...

    async def dismiss(self) -> None:
        """End the workers."""


class Processes:
    """A team of processes, each with its own place: its databases and servers.

    ``limit`` is how many seconds one request may take.
    """

    def __init__(
        self, nursery: Nursery, name: str, places: list[dict[str, Any]], limit: float
    ) -> None:
        self._limit = limit
        self._started = [nursery.fork(name, place) for place in places]
        self._streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._locks = [asyncio.Lock() for _ in places]

    def __len__(self) -> int:
        return len(self._started)

    async def ask(self, number: int, do: str, /, **request: Any) -> dict[str, Any]:
        """Have one worker do something. Raises CannotDo."""
        async with self._locks[number]:
            reader, writer = await self._stream(number)
            writer.write(json.dumps({"do": do, **request}).encode() + b"\n")
            try:
                line = await asyncio.wait_for(reader.readline(), self._limit)
            except asyncio.TimeoutError:
                raise CannotDo(f"no end of '{do}' within {self._limit:g} seconds") from None
            except ConnectionError:
                line = b""
        if not line:
            raise CannotDo(f"the process ended when asked to '{do}'")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CannotDo(answer["error"])
        return answer

    async def dismiss(self) -> None:
        """End the workers."""
        for process, connection in self._started:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
            connection.close()
        for _, writer in self._streams.values():
            writer.close()

    async def _stream(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if number not in self._streams:
            connection: socket.socket = self._started[number][1]
            self._streams[number] = await asyncio.open_connection(sock=connection, limit=LIMIT)
        return self._streams[number]


class Together:
    """A team within this very process, to try the workloads without servers."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    def __len__(self) -> int:
        return len(self._workers)

    async def ask(self, number: int, do: str, /, **request: Any) -> dict[str, Any]:
        """Have one worker do something. Raises CannotDo."""
        try:
            return await self._workers[number](do, **request)
        except Exception as error:
            raise CannotDo(f"{type(error).__name__}: {error}") from error

    async def dismiss(self) -> None:
        """End what the workers still do."""
        for number in range(len(self)):
            await self.ask(number, "stop")
            await self.ask(number, "burn", on=False)
