"""What one server process knows about itself, and tells every page twice a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from channels.layers import get_channel_layer

from channels_pg_secrets.errors import ChannelLayerUnavailable
from pg_secrets import CredentialEvent, CredentialSource

GROUP = "figures"
INTERVAL = 0.5

logger = logging.getLogger(__name__)


@dataclass
class Figures:
    """Counters of one server process since it started; times are seconds since the epoch."""

    server: int
    adapter: str
    pid: int = field(default_factory=os.getpid)
    user: str = ""
    generation: int = 0
    rotations: int = 0
    reconnects: int = 0
    started_at: float = field(default_factory=time.time)
    rotated_at: float | None = None
    next_rotation_at: float = 0.0
    pages: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    refused: int = 0
    latency_ms: float | None = None


class FigureBoard:
    """Keeps a process's :class:`Figures` and broadcasts them over the channel layer itself.

    Used on one event loop, but for the source's events, which come from any thread.
    """

    def __init__(
        self, source: CredentialSource, *, server: int, adapter: str, rotate_every: float
    ) -> None:
        self.figures = Figures(server=server, adapter=adapter)
        self._source = source
        self._rotate_every = rotate_every
        self._delays: deque[float] = deque(maxlen=300)
        self._events: deque[CredentialEvent] = deque(maxlen=100)
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def arrived(self, delay: float | None, lost: int, duplicated: int) -> None:
        """Count one message that reached a page; ``delay`` is seconds from another process."""
        self.figures.received += 1
        self.figures.lost += lost
        self.figures.duplicated += duplicated
        if delay is not None:
            self._delays.append(delay)

    async def start(self) -> None:
        """Take the first credentials, or fail, and begin to broadcast."""
        self._unsubscribe = self._source.subscribe(self._events.append)
        await self._source.aget()
        self._task = asyncio.create_task(self._broadcast())

    async def stop(self) -> None:
        """Stop broadcasting."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _broadcast(self) -> None:
        layer = get_channel_layer()
        while True:
            self._update(layer)
            message = {"type": "figures.changed", "figures": asdict(self.figures)}
            try:
                await layer.group_send(GROUP, message)
            except ChannelLayerUnavailable as error:
                logger.warning("figures not sent: %s", error)
            await asyncio.sleep(INTERVAL)

    def _update(self, layer: Any) -> None:
        figures = self.figures
        while self._events:
            event = self._events.popleft()
            if event.kind == "rotated":
                figures.rotations += 1
                figures.rotated_at = event.at
        credentials = self._source.get(timeout=0)
        figures.next_rotation_at = (figures.rotated_at or figures.started_at) + self._rotate_every
        figures.reconnects = int(layer.stats()["hand_overs"])
        figures.user = credentials.user or ""
        figures.generation = credentials.generation
        if self._delays:
            figures.latency_ms = round(median(self._delays) * 1000, 2)


class Lifespan:
    """An ASGI lifespan application that starts and stops a board with its server."""

    def __init__(self, board: FigureBoard) -> None:
        self._board = board

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one lifespan scope."""
        await receive()
        try:
            await self._board.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._board.stop()
        await send({"type": "lifespan.shutdown.complete"})
