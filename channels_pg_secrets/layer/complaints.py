"""Warnings that could come with every message, and come once a minute."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("channels_pg_secrets.layer")

#: Seconds between two warnings about the same thing.
INTERVAL = 60.0


class Complaints:
    """Remembers what was warned about. Safe from any thread; a race costs one more line."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def warn(self, about: str, message: str, *values: object) -> None:
        """Log a warning, unless one about the same thing was logged less than a minute ago."""
        now = time.monotonic()
        if now - self._last.get(about, -INTERVAL) >= INTERVAL:
            self._last[about] = now
            logger.warning(message, *values)
