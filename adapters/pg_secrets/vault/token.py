"""A Vault token and how long it lives."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The share of its life after which a token is renewed, or replaced where it cannot be.
RENEW_AT = 0.7
#: The share after which one that cannot be renewed is too old to hang a new lease on.
TOO_OLD_FOR_LEASES = 0.5


@dataclass(eq=False)
class Token:
    """One token; ``life`` counts from ``since``, and is ``None`` for one that never ends.

    ``owned`` says that we made it by logging in, and so have to revoke it; a batch token cannot be
    revoked (nor renewed), and is nobody's in that sense. Changes only by
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

    def too_old_for_leases(self, now: float) -> bool:
        """Whether a new lease would be cut short by its end, though another token would not be."""
        if self.renewable or self.life is None:
            return False
        return self.since + TOO_OLD_FOR_LEASES * self.life <= now

    def extend(self, life: float, since: float) -> bool:
        """Take note of a renewal; return whether it gave about as much as there was before.

        One that gave much less has met the token's max_ttl: asking again is of no use.
        """
        whole = self.life is None or life >= self.life / 2
        self.since, self.life = since, life
        self.renewable = self.renewable and whole
        return whole
