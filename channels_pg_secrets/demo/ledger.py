"""Keeps account of every single message of a check."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Who should get which message, and who got it; used on one event loop.

    ``receivers`` are names fixed for the whole run: every message of a room is due to all of them.
    """

    receivers: dict[str, frozenset[str]]
    received: int = 0
    duplicated: int = 0
    refused: int = 0
    unknown: int = 0
    delays: list[float] = field(default_factory=list)
    _due: dict[str, set[str]] = field(default_factory=dict)
    _sent_at: dict[str, float] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Messages the servers took."""
        return len(self._sent_at) - self.refused

    @property
    def lost(self) -> int:
        """Deliveries still due, of messages the servers took."""
        return sum(len(names) for names in self._due.values())

    def send(self, id_: str, room: str, now: float) -> None:
        """Enter a message about to be sent."""
        self._sent_at[id_] = now
        self._due[id_] = set(self.receivers[room])

    def refuse(self, id_: str) -> None:
        """Strike a message that the server said it could not send."""
        if id_ in self._sent_at:
            self.refused += 1
            self._due[id_] = set()

    def receive(self, id_: str, name: str, now: float) -> None:
        """Enter a delivery."""
        if id_ not in self._sent_at:
            self.unknown += 1
            return
        due = self._due[id_]
        if name not in due:
            self.duplicated += 1
            return
        due.remove(name)
        self.received += 1
        self.delays.append(now - self._sent_at[id_])

    def delay_ms(self, fraction: float) -> float | None:
        """Return the delay that ``fraction`` of the deliveries did not exceed, in milliseconds."""
        if not self.delays:
            return None
        ordered = sorted(self.delays)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1000, 1)
