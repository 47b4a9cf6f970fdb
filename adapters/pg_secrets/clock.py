"""Time, injected, so that no test has to sleep."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What sources need to know of time; thread-safe.

    Both waits are called with ``condition`` held, take seconds (``None``: no limit), may return
    early, and leave it to the caller to look again.
    """

    def monotonic(self) -> float:
        """Seconds that never run backwards; for durations."""

    def time(self) -> float:
        """Seconds since the epoch; for moments that others named."""

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        """Wait for something another thread is doing."""

    def pause(self, condition: threading.Condition, timeout: float | None) -> None:
        """Wait for time to pass, unless the condition is notified."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        # Plain attributes: one call less on the path that every look-up takes.
        self.monotonic = time.monotonic
        self.time = time.time

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        condition.wait(timeout)

    def pause(self, condition: threading.Condition, timeout: float | None) -> None:
        condition.wait(timeout)


SYSTEM_CLOCK = SystemClock()
