"""A Vault token and how long it lives."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The share of its life after which a token is renewed, or replaced where it cannot be.
RENEW_AT = 0.7


@dataclass(eq=False)
class Token:
    """One token; ``life`` counts from ``since``, and is ``None`` for one that never ends.

    ``owned`` says that we made it by logging in, and so have to revoke it. Changes only by
    :meth:`extend`, since leases that hang on it refer to the object.
    """

    value: str = field(repr=False)
    since: float
    life: float | None = None
    renewable: bool = False
    owned: bool = False

    @property
    def expires_at(self) -> float | None:
        """When it ends, in seconds since the epoch."""
        return None if self.life is None else self.since + self.life

    @property
    def due_at(self) -> float | None:
        """When it should be renewed or replaced, in seconds since the epoch."""
        return None if self.life is None else self.since + RENEW_AT * self.life

    def expired(self, now: float) -> bool:
        """Whether Vault has forgotten it by ``now``."""
        return self.expires_at is not None and self.expires_at <= now

    def due(self, now: float) -> bool:
        """Whether it should be renewed or replaced."""
        return self.due_at is not None and self.due_at <= now

    def extend(self, life: float, since: float) -> bool:
        """Take note of a renewal; return whether it gave about as much as there was before.

        One that gave much less has met the token's max_ttl: asking again is of no use.
        """
        whole = self.life is None or life >= self.life / 2
        self.since, self.life = since, life
        self.renewable = self.renewable and whole
        return whole
