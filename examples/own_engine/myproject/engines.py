"""A subclass of the PostgreSQL engine with each of its override points."""

from __future__ import annotations

import logging
import socket
import time
import zlib
from typing import Any, ClassVar

import psycopg

from channels_pg_secrets.engines import PostgresEngine

logger = logging.getLogger(__name__)

PLAIN, COMPRESSED = b"\0", b"\1"
#: A message that claims to be larger than the layer carries is not unpacked.
LARGEST = 16 * 1024 * 1024


class CompressingEngine(PostgresEngine):
    """Compresses large messages, names its connections, and limits their statements."""

    #: The keys of CONFIG that this class adds. All others stay strict.
    settings: ClassVar[frozenset[str]] = frozenset({"COMPRESS_ABOVE"})
    #: The Django backend that is asked for parameters, when ENGINE names this class.
    backend = "myproject.db"

    def connection_params(self) -> dict[str, Any]:
        """Runs in a worker thread for every new connection; it may block."""
        return {**super().connection_params(), "application_name": f"chat@{socket.gethostname()}"}

    async def connect(self, **params: Any) -> psycopg.AsyncConnection[Any]:
        """One attempt. ``params`` hold the password: log where and who, never all of them."""
        began = time.monotonic()
        connection = await super().connect(**params)
        logger.info("%s logged in after %.3f s", params.get("user"), time.monotonic() - began)
        return connection

    async def configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Runs once for every new connection, before the layer uses it."""
        await super().configure(connection)
        await connection.execute("SET statement_timeout = '8s'")

    def serialize(self, message: dict[str, Any]) -> bytes:
        """Runs for every message, on whatever loop sends it: no waiting here."""
        data = super().serialize(message)
        if len(data) > self.config.get("COMPRESS_ABOVE", 1024):
            return COMPRESSED + zlib.compress(data, 1)
        return PLAIN + data

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Undo :meth:`serialize`, in every process: roll out such a change everywhere at once."""
        if data[:1] == COMPRESSED:
            unpacker = zlib.decompressobj()
            body = unpacker.decompress(data[1:], LARGEST)
            if unpacker.unconsumed_tail:
                raise ValueError("a compressed message is too large")
            return super().deserialize(body)
        return super().deserialize(data[1:])
