"""What a source tells those who listen."""

from __future__ import annotations

import logging
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
        # No lock: the garbage collector may run a finalizer that unsubscribes at any point of a
        # thread that would hold it. Each change of a dict is one step for other threads.
        self._listeners: dict[object, Listener] = {}
        self.failures = 0

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener and return what removes it; removing twice is a no-op."""
        ticket = object()
        self._listeners[ticket] = listener

        def unsubscribe() -> None:
            self._listeners.pop(ticket, None)

        return unsubscribe

    def emit(self, event: CredentialEvent) -> None:
        """Call every listener in this thread; what they raise is logged by type alone."""
        # list(), which lets the collector run only before it begins to iterate; tuple() does later.
        for listener in list(self._listeners.values()):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises
                self.failures += 1
                logger.error(
                    "a listener of credential events failed with %s on %r",
                    type(error).__name__,
                    event.kind,
                )
