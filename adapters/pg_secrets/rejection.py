"""Never hammer a server with one rejected password: it may lock the login out."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from pg_secrets.clock import SYSTEM_CLOCK, Clock
from pg_secrets.policy import rejection_interval

_KEY = secrets.token_bytes(16)
_REMEMBERED = 256
_FORGOTTEN_AFTER = 3600.0


def login_fingerprint(params: Mapping[str, Any]) -> str:
    """Return a digest of user and password that means nothing outside this process."""
    login = repr((params.get("user"), params.get("password"))).encode()
    return hashlib.blake2b(login, key=_KEY, digest_size=16).hexdigest()


@dataclass
class _Rejection:
    first_at: float
    count: int
    closed_until: float
    admitted: bool = False


class RejectionGate:
    """Says how long a rejected login has to wait before it may be tried again.

    Keyed by fingerprint; 0.5 s doubled up to 5 s for 30 s, then once a minute. Remembers the
    latest 256 logins for an hour. Thread-safe; never blocks.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rejections: TTLCache[str, _Rejection] = TTLCache(
            maxsize=_REMEMBERED, ttl=_FORGOTTEN_AFTER, timer=clock.monotonic
        )

    def delay(self, fingerprint: str) -> float:
        """Return the seconds this login has to wait; 0.0 means: try now.

        For a login that was rejected, 0.0 is given to one caller per interval; the others wait for
        what comes of it. A login that was never rejected is not held up.
        """
        now = self._clock.monotonic()
        with self._lock:
            rejection = self._rejections.get(fingerprint)
            if rejection is None:
                return 0.0
            if now < rejection.closed_until:
                return rejection.closed_until - now
            rejection.admitted = True
            rejection.closed_until = now + self._interval(rejection, now)
            return 0.0

    def remaining(self, fingerprint: str) -> float:
        """Return the seconds left to wait, as :meth:`delay` does, but claim no try."""
        now = self._clock.monotonic()
        with self._lock:
            rejection = self._rejections.get(fingerprint)
            return max(0.0, rejection.closed_until - now) if rejection else 0.0

    def rejected(self, fingerprint: str) -> float:
        """Note that the server refused this login; return the seconds to wait."""
        now = self._clock.monotonic()
        with self._lock:
            rejection = self._rejections.get(fingerprint)
            if rejection is None:
                rejection = _Rejection(first_at=now, count=0, closed_until=now)
            elif now < rejection.closed_until and not rejection.admitted:
                # Others who tried at the same moment: one refusal, reported many times.
                return rejection.closed_until - now
            rejection.count += 1
            rejection.admitted = False
            rejection.closed_until = now + self._interval(rejection, now)
            self._rejections[fingerprint] = rejection
            return rejection.closed_until - now

    def accepted(self, fingerprint: str) -> None:
        """Forget the login: the server takes it."""
        with self._lock:
            self._rejections.pop(fingerprint, None)

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may have held."""
        self._lock = threading.Lock()

    @staticmethod
    def _interval(rejection: _Rejection, now: float) -> float:
        return rejection_interval(rejection.count, now - rejection.first_at)
