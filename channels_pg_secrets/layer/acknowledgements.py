"""Joins and leaves of other processes' channels, until their owners say that they are done."""

from __future__ import annotations

import asyncio
import itertools
import threading

from channels_pg_secrets.layer.wakeup import settle


class Acknowledgements:
    """What this process waits to hear from the owners of channels. Safe from any thread.

    An owner decides about its channels at once and in memory. Without its word, a join that is in
    the database but still on its way would count as later than a leave that the owner decides now.
    """

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._expected: dict[str, asyncio.Future[None]] = {}
        self._lock = threading.Lock()

    def expect(self) -> tuple[str, asyncio.Future[None]]:
        """Return a new token, and the future that is done when its owner sends it back."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            token = f"{next(self._tokens):x}"
            self._expected[token] = future
        return token, future

    def received(self, token: str) -> None:
        """An owner has done what it was told with this token."""
        with self._lock:
            future = self._expected.pop(token, None)
        if future is not None:
            settle([future], None)

    def forget(self, token: str) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._expected.pop(token, None)
