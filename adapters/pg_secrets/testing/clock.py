"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading


class FakeClock:
    """Starts at 1 000 s (monotonic) and 1 700 000 000 s (epoch); thread-safe.

    With ``autojump`` a pause that only lets time pass moves the clock itself, so that retries with
    backoff run at once. Waits for what another thread does take no time on it.
    """

    def __init__(self, *, autojump: bool = False) -> None:
        self.autojump = autojump
        self._lock = threading.Condition()
        self._monotonic = 1_000.0
        self._offset = 1_700_000_000.0 - self._monotonic
        self._waiting: list[tuple[float, threading.Condition]] = []
        #: Every pause taken, in seconds.
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self._monotonic

    def time(self) -> float:
        return self._monotonic + self._offset

    def advance(self, seconds: float) -> None:
        """Let time pass and wake those whose time has come."""
        with self._lock:
            self._monotonic += seconds
            due = [condition for at, condition in self._waiting if at <= self._monotonic]
        for condition in due:
            with condition:
                condition.notify_all()

    def wait_for_waiters(self, count: int, timeout: float = 10.0) -> None:
        """Return once ``count`` threads wait on this clock; fail after ``timeout`` real seconds."""
        with self._lock:
            if not self._lock.wait_for(lambda: len(self._waiting) >= count, timeout):
                raise AssertionError(f"{len(self._waiting)} threads wait, not {count}")

    def step(self, seconds: float) -> None:
        """Set the wall clock, and it alone, forward or back."""
        with self._lock:
            self._offset += seconds

    def wait(self, condition: threading.Condition, timeout: float | None) -> None:
        until = float("inf") if timeout is None else self._monotonic + timeout
        ticket = (until, condition)
        with self._lock:
            if until <= self._monotonic:
                return
            self._waiting.append(ticket)
            self._lock.notify_all()
        try:
            condition.wait()
        finally:
            with self._lock:
                self._waiting.remove(ticket)

    def pause(self, condition: threading.Condition, timeout: float | None) -> None:
        if timeout is None or not self.autojump:
            self.wait(condition, timeout)
            return
        self.pauses.append(timeout)
        condition.release()
        try:
            self.advance(timeout)
        finally:
            condition.acquire()
