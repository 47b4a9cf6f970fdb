"""The settings of one layer, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The layer's settings. Times are in seconds."""

    prefix: str
    expiry: float
    group_expiry: float
    send_timeout: float
    capacity_of: Callable[[str], int]

    @property
    def row_expiry(self) -> float:
        """Seconds a published row is kept: a short expiry must not lose joins and leaves."""
        return max(self.expiry, 60.0)
