"""What a source tells those who listen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pg_secrets.errors import CredentialsError

logger = logging.getLogger("pg_secrets")

EventKind = Literal[
    "fetched",
    "unchanged",
    "rotated",
    "renewed",
    "renew_failed",
    "stale_served",
    "rejected",
    "expired",
    "revoked",
]


@dataclass(frozen=True)
class CredentialEvent:
    """One thing that happened to a source's credentials; holds no secret.

    ``generation`` is the one concerned, ``at`` seconds since the epoch, ``error`` what the store
    said where something failed.
    """

    kind: EventKind
    generation: int
    at: float
    error: CredentialsError | None = None


Listener = Callable[[CredentialEvent], None]


class Listeners:
    """Those who want to hear of events; thread-safe; a failing one harms nobody else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[tuple[object, Listener], ...] = ()
        self.failures = 0

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener and return what removes it; removing twice is a no-op."""
        ticket = object()
        with self._lock:
            self._listeners += ((ticket, listener),)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(pair for pair in self._listeners if pair[0] is not ticket)

        return unsubscribe

    def emit(self, event: CredentialEvent) -> None:
        """Call every listener in this thread; what they raise is logged by type alone."""
        for _, listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises
                self.failures += 1
                logger.error(
                    "a listener of credential events failed with %s on %r",
                    type(error).__name__,
                    event.kind,
                )

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may have held."""
        self._lock = threading.Lock()
