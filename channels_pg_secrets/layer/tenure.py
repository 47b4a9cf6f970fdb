"""Which home may act for the node: exactly one, also while a stuck one wakes up again."""

from __future__ import annotations

import threading


class Succession:
    """Hands out tenures; each ends the one before it. Safe from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._tenure: Tenure | None = None

    def begin(self) -> Tenure:
        """Start a new tenure."""
        with self.lock:
            if self._tenure is not None:
                self._tenure.current = False
            self._tenure = Tenure(self.lock)
            return self._tenure


class Tenure:
    """Whoever acts for the node holds ``lock`` and looks first whether it is still ``current``.

    A home whose loop was stopped for a while comes back to answers and notifications that its
    successor has already seen to. Acting on them would publish beside the successor, or give back
    what it has handed over.
    """

    __slots__ = ("current", "lock")

    def __init__(self, lock: threading.RLock) -> None:
        self.lock = lock
        #: Nobody has taken over. Certain only while the lock is held.
        self.current = True

    def end(self) -> None:
        """Step down."""
        with self.lock:
            self.current = False
