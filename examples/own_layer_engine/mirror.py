"""An engine whose channel layer is another one, and copies group messages to an outside service.

What it shows: an engine may return any channel layer; a service outside is spoken to from a thread
of its own, over one connection, with a time-out on every wait, a bound on the queue and an end to
the retries; and nothing that happens to the service ever holds up a message.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from channels.layers import BaseChannelLayer

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.engines import Engine
from channels_pg_secrets.errors import LayerMisconfigured
from pg_secrets import CredentialSource

logger = logging.getLogger(__name__)


class MirrorEngine(Engine):
    """``INNER`` is the ``CONFIG`` of the layer that does the work, ``COPY_TO`` a host and port."""

    settings: ClassVar[frozenset[str]] = frozenset({"INNER", "COPY_TO", "COPY_QUEUE"})

    def __init__(self, config: Mapping[str, Any], credentials: CredentialSource | None) -> None:
        super().__init__(config, credentials)  # refuses every key that nobody declares
        host, _, port = str(config.get("COPY_TO")).rpartition(":")
        if not host or not port.isdecimal():
            raise LayerMisconfigured(
                "CONFIG key 'COPY_TO' must be a host and a port.", hint="For example 'log:9000'."
            )
        self._copy_to = (host, int(port))

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        """Build the inner layer and put ours around it; nothing is connected yet."""
        inner = dict(self.config.get("INNER", {}))
        if self.source is not None:
            inner["CREDENTIALS"] = self.source  # a source is as good as settings for one
        copier = Copier(self._copy_to, size=self.config.get("COPY_QUEUE", 1000))
        return MirrorLayer(ChannelLayer(**{**inner, **options}), copier)


class MirrorLayer(BaseChannelLayer):
    """Passes every call on. Copies leave after the message, so that they cannot delay it."""

    def __init__(self, inner: BaseChannelLayer, copier: Copier) -> None:
        super().__init__(expiry=inner.expiry, capacity=inner.capacity)
        self.inner, self.copier = inner, copier
        self.extensions = inner.extensions

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        await self.inner.send(channel, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        received: dict[str, Any] = await self.inner.receive(channel)
        return received

    async def new_channel(self, prefix: str = "specific") -> str:
        return str(await self.inner.new_channel(prefix))

    async def group_add(self, group: str, channel: str) -> None:
        await self.inner.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self.inner.group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self.inner.group_send(group, message)
        self.copier.put(json.dumps([group, message], default=repr).encode() + b"\n")

    async def flush(self) -> None:
        await self.inner.flush()

    async def close(self) -> None:
        """Close both; what is queued for the service gets a second to leave."""
        self.copier.close(timeout=1.0)
        if hasattr(self.inner, "close"):
            await self.inner.close()


class Copier:
    """Sends lines to a service, each at most once, from a thread of its own.

    :meth:`put` never waits: when the queue is full, the copy is dropped and counted. May be used
    from any thread and any event loop, and in the child of a fork, which starts afresh.
    """

    timeout = 2.0  # seconds that connecting, and each write, may take
    budget = 5.0  # seconds after which a copy that could not be sent is given up

    def __init__(self, address: tuple[str, int], *, size: int) -> None:
        self._address, self._size = address, size
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lines: queue.Queue[bytes] = queue.Queue(self._size)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.copied = self.dropped = 0

    def put(self, line: bytes) -> None:
        """Queue a copy, or drop it."""
        if self._process != os.getpid():
            self._begin()  # a forked child has none of its parent's threads
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._drop()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
                self._thread.start()

    def close(self, timeout: float) -> None:
        """Send what is queued, for so many seconds at most, and end the thread for good."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            try:
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                if self._closing.is_set():
                    break
                continue
            if self._sent(line):
                self.copied += 1
            else:
                self._drop()
        self._disconnect()

    def _sent(self, line: bytes) -> bool:
        until, delay = time.monotonic() + self.budget, 0.1
        while True:
            try:
                self._connected().sendall(line)
                return True
            except OSError:
                self._disconnect()
            # Full jitter, so that a hundred processes do not come back at the same instant.
            pause = random.uniform(0, delay)
            delay = min(2.0, delay * 2)
            if time.monotonic() + pause > until or self._closing.wait(pause):
                return False

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self.timeout)
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8…: enough to notice, not to drown
            logger.warning("%d copies were dropped so far", self.dropped)
