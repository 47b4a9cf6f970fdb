"""A connection as the layer gets it: open, configured, and stamped with its credentials."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from pg_secrets.credentials import Credentials
    from pg_secrets.leases import Hold


def cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """End a connection's socket as a broken network would; its loop learns of it when it runs.

    From any thread, also while that loop stands still: whatever waits for the server hears of the
    end, and closing the connection stays to whoever owns it.
    """
    try:
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as stream:
            stream.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.OperationalError):
        return  # it has ended already


@dataclass(frozen=True)
class OpenedConnection:
    """One open connection and what it was opened with.

    ``credentials`` is the snapshot that was current when the parameters were *resolved*, so that a
    rotation during the login is noticed; ``None`` without a source. ``fingerprint`` stands for
    user and password, whoever supplied them. ``opened_at`` is a :func:`time.monotonic` time.

    As long as it is not released, the credentials' lease is not revoked.
    """

    connection: psycopg.AsyncConnection[Any]
    credentials: Credentials | None
    fingerprint: str = field(repr=False)
    opened_at: float
    hold: Hold | None = field(default=None, repr=False)
    process: int = field(default_factory=os.getpid, repr=False)
    #: Where each libpq keyword came from, by name; no values.
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def generation(self) -> int:
        """The credentials' generation; 0 without a source."""
        return self.credentials.generation if self.credentials else 0

    def release(self) -> None:
        """Close the socket and give up the hold on the credentials, at once and for good.

        Does not wait, needs no event loop, may be called twice and from any thread, and is
        harmless in a forked child, where it touches neither the socket nor the lease of the parent.
        Take the socket out of the event loop's selector before.
        """
        if os.getpid() != self.process:
            return
        try:
            # All that AsyncConnection.close() does, without needing a loop to do it.
            self.connection.pgconn.finish()
        finally:
            if self.hold is not None:
                self.hold.release()

    async def close(self) -> None:
        """Do the same as :meth:`release`, for use where a coroutine is wanted."""
        self.release()
