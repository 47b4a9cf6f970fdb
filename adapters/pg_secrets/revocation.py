"""Giving leases back: when their last hold is released, when a source is closed, at exit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pg_secrets.cache import CredentialCache
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsError
from pg_secrets.guard import GuardedAdapter
from pg_secrets.snapshot import NEVER

logger = logging.getLogger("pg_secrets")

#: Seconds that closing a source may take.
_CLOSING = 2.0


class Revoker:
    """Gives back what is in a cache's lease book, and closes the adapter after the last.

    ``retired`` is called then. Thread-safe.
    """

    def __init__(
        self, adapter: GuardedAdapter, cache: CredentialCache, retired: Callable[[], None]
    ) -> None:
        self._adapter = adapter
        self._cache = cache
        self._retired = retired
        self._over = False

    def tend(self) -> None:
        """Begin to revoke what is due, in a thread of its own; never blocks."""
        leases = self._cache.book.take_due()
        # The last lease of a closed source may also have expired.
        if leases or (self._emptied() and not self._over):
            self._begin(leases)

    def settle(self) -> None:
        """Revoke what is due, now and in this thread; blocks."""
        self.revoke(self._cache.book.take_due(), NEVER)

    def close(self) -> None:
        """Revoke what nobody holds, and the rest when it is released; blocks for 2 s at most."""
        book = self._cache.book
        book.supersede_all()
        thread = self._begin(book.take_due())
        if thread is not None:
            thread.join(_CLOSING)
        else:
            self.revoke(book.take_due(), self._cache.clock.monotonic() + _CLOSING)

    def revoke(self, leases: list[Credentials], deadline: float) -> None:
        """Revoke what was taken from the book, until a monotonic time; blocks."""
        for credentials in leases:
            left = deadline - self._cache.clock.monotonic()
            if left <= 0.0:
                return
            self._revoke(credentials, -1 if left == NEVER else left)
            self._cache.book.remove(credentials)
        self._cache.deliver()
        if self._emptied():
            self._retire()

    def _emptied(self) -> bool:
        cache = self._cache
        # What is under way may bring another lease.
        return cache.closed and cache.flight is None and not len(cache.book)

    def _begin(self, leases: list[Credentials]) -> threading.Thread | None:
        """Revoke in a thread; put the leases back where none can be started: at exit."""
        thread = threading.Thread(
            target=self.revoke, args=(leases, NEVER), name="pg_secrets-revoke", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._cache.book.put_back(leases)
            return None
        return thread

    def _revoke(self, credentials: Credentials, timeout: float) -> None:
        cache = self._cache
        try:
            self._adapter.revoke(credentials, timeout)
        except CredentialsError as error:
            with cache.lock:
                cache.counts["revoke_failed"] += 1
            logger.warning("a lease could not be given back and will expire: %s", error)
        else:
            with cache.lock:
                cache.announce("revoked", credentials.generation)

    def _retire(self) -> None:
        with self._cache.lock:
            over, self._over = self._over, True
        if over:
            return
        try:
            self._adapter.close()
        except CredentialsError as error:
            logger.warning("adapter %r could not be closed: %s", self._adapter.name, error)
        self._retired()
