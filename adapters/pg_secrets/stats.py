"""What a source tells of itself to whoever watches it."""

from __future__ import annotations

from typing import Any

from pg_secrets.cache import CredentialCache
from pg_secrets.snapshot import NEVER

_COUNTED = (
    "fetches",
    "errors",
    "fetched",
    "unchanged",
    "rotated",
    "renewed",
    "renew_failed",
    "stale_served",
    "rejections",
    "rejected",
    "expired",
    "revoked",
    "revoke_failed",
)


def describe(cache: CredentialCache) -> dict[str, Any]:
    """Return counters, and ages in seconds, without secrets."""
    with cache.lock:
        snapshot, error, now = cache.snapshot, cache.error, cache.now()
        counts = dict(cache.counts)
    left = NEVER if snapshot is None else snapshot.remaining(now)
    return {
        "adapter": cache.adapter.name,
        "generation": cache.generation,
        "age": None if snapshot is None else now.monotonic - snapshot.started.monotonic,
        "expires_in": None if left == NEVER else left,
        "stale": snapshot is not None and error is not None,
        "last_error": None if error is None else f"{type(error).__name__}: {error}",
        "consecutive_failures": cache.failures,
        "leases": len(cache.book),
        "holds": cache.book.holds,
        "listener_failures": cache.listeners.failures,
        **{name: counts.get(name, 0) for name in _COUNTED},
    }
