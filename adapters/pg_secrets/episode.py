"""How often the store is asked while the server refuses what it handed out."""

from __future__ import annotations

from pg_secrets.policy import rejection_interval

#: Seconds without a refusal after which the next one begins a new episode.
_QUIET = 120.0

NEVER = float("inf")


class RejectionEpisode:
    """A run of refused logins, whatever their generations; guarded by its source's lock.

    The first refusal asks the store at once, further ones at growing intervals, also when each
    answer differs: a store that makes a new user per fetch must not be drained of users by a
    server that refuses them all.
    """

    def __init__(self) -> None:
        self.pending = False
        self.poll_at = NEVER
        self._first_at = -NEVER
        self._latest_at = -NEVER
        self._polls = 0

    def rejected(self, now: float) -> bool:
        """Note a refusal of what is held; say whether it is news."""
        if self.pending:
            self._latest_at = now
            return False
        if now - self._latest_at > _QUIET:
            self._first_at, self._polls, self.poll_at = now, 0, now
        self._latest_at = now
        self.pending = True
        return True

    def due(self, now: float) -> bool:
        return self.pending and now >= self.poll_at

    def polled(self, now: float) -> None:
        """Note that the store is being asked."""
        if self.pending:
            self._polls += 1
            self.poll_at = now + rejection_interval(self._polls, now - self._first_at)

    def replaced(self) -> None:
        """Note that the store has something else; the episode goes on until that was accepted."""
        self.pending = False

    def accepted(self) -> None:
        """Note that the server took what is held: the episode is over."""
        self.pending = False
        self._latest_at = -NEVER
