"""What a source holds at one moment, and when it needs attention next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pg_secrets import policy
from pg_secrets.credentials import Credentials

Action = Literal["fetch", "renew"]

NEVER = float("inf")


class Moment(NamedTuple):
    """One reading of both clocks."""

    monotonic: float
    epoch: float


@dataclass(frozen=True)
class Snapshot:
    """Stamped credentials and their timetable; immutable, all times monotonic unless said.

    ``granted`` is how many seconds the value lived when it was handed out. ``renew_at`` is
    :data:`NEVER` where renewing is no use, ``rotate_at`` when it has to be replaced,
    ``expires_at`` when it must not be used any more. ``jitter`` was drawn once for it.
    """

    credentials: Credentials
    started: Moment
    jitter: float
    granted: float
    renew_at: float
    rotate_at: float
    expires_at: float
    role_valid_until: float | None = None
    role_reported: bool = False
    renewals: int = 0
    renewal_failed: bool = False

    def expired(self, now: Moment) -> bool:
        return self.remaining(now) <= 0.0

    def remaining(self, now: Moment) -> float:
        """Return the seconds of life left, by whichever clock says less.

        The monotonic clock stands still while the machine is suspended; the other can be set back.
        """
        by_monotonic = self.expires_at - now.monotonic
        expiry = self.credentials.expires_at
        return by_monotonic if expiry is None else min(by_monotonic, expiry - now.epoch)

    def due_at(self) -> float:
        """Return when the store has to be asked next."""
        return self.rotate_at if self.renew_at == NEVER else self.renew_at

    def action(self, now: Moment) -> Action | None:
        """Return what is due now, if anything."""
        if now.monotonic < self.due_at():
            return None
        if self.renew_at == NEVER or (self.renewal_failed and now.monotonic >= self.rotate_at):
            return "fetch"
        # A short lease enters its rotation window before 67 %: renewing still comes first.
        return "renew"

    def renewal_refused(self) -> Snapshot:
        """Return the same value, to be replaced at once."""
        return replace(self, renew_at=NEVER, rotate_at=-NEVER, renewal_failed=True)

    def renewal_missed(self) -> Snapshot:
        """Return the same value, whose renewal may be tried again until it has to be replaced."""
        return replace(self, renewal_failed=True)

    def renewed_as(self, renewed: Snapshot) -> Snapshot:
        """Return what a renewal brought; to be replaced at once if it was granted less.

        What the role's own end was is kept for comparison only: it has to be read again.
        """
        truncated = renewed.granted < self.granted * policy.FULL_GRANT
        result = replace(
            renewed,
            granted=self.granted,
            renewals=self.renewals + 1,
            role_valid_until=self.role_valid_until,
        )
        return result.renewal_refused() if truncated else result

    def capped_by_role(self, valid_until: float) -> Snapshot:
        """Return the same value, ending no later than its role in the database (epoch seconds)."""
        earlier = self.role_valid_until
        if self.role_reported and earlier == valid_until:
            return self
        # A renewal that did not move the role's own end will not do so next time either.
        useless = self.renewals > 0 and earlier is not None and valid_until <= earlier
        lifetime = valid_until - self.started.epoch
        rotate_at = self.started.monotonic + policy.rotation_point(lifetime, self.jitter)
        renew_at = NEVER if useless or self.renew_at == NEVER else min(self.renew_at, rotate_at)
        expiry = self.credentials.expires_at
        return replace(
            self,
            credentials=self.credentials.replace(
                expires_at=valid_until if expiry is None else min(expiry, valid_until)
            ),
            renew_at=renew_at,
            rotate_at=min(self.rotate_at, rotate_at),
            expires_at=min(self.expires_at, self.started.monotonic + lifetime),
            role_valid_until=valid_until,
            role_reported=True,
        )


def take(
    credentials: Credentials,
    *,
    started: Moment,
    generation: int,
    ttl: float | None,
    renewable: bool,
    jitter: float,
) -> Snapshot:
    """Return a snapshot of what the store handed out to a request begun at ``started``.

    ``ttl`` is what somebody chose, if anybody did.
    """
    lease, expiry = credentials.lease, credentials.expires_at
    lifetime = min(
        NEVER if lease is None else lease.duration,
        NEVER if expiry is None else expiry - started.epoch,
    )
    rotate_after = NEVER if lifetime == NEVER else policy.rotation_point(lifetime, jitter)
    if lease is None:
        if ttl is None:
            ends = lifetime != NEVER
            ttl = policy.DEFAULT_TTL_WITH_END if ends else policy.DEFAULT_TTL
        rotate_after = min(rotate_after, _static(credentials, started, ttl, jitter))
    renews = renewable and lease is not None and lease.renewable
    return Snapshot(
        credentials=credentials.replace(
            generation=generation,
            expires_at=None if lifetime == NEVER else started.epoch + lifetime,
        ),
        started=started,
        jitter=jitter,
        granted=lifetime,
        renew_at=started.monotonic + policy.renewal_point(lifetime, jitter) if renews else NEVER,
        rotate_at=started.monotonic + rotate_after,
        expires_at=started.monotonic + lifetime,
    )


def _static(credentials: Credentials, started: Moment, ttl: float, jitter: float) -> float:
    """Return the seconds a value without a lease is used before the store is asked again."""
    stale_after = policy.static_lifetime(ttl, jitter)
    if credentials.refresh_at is None:
        return stale_after
    announced = credentials.refresh_at - started.epoch
    if announced > 0.0:
        # Up to a second later: neither before the store has done it, nor all processes at once.
        return min(stale_after, announced + jitter)
    overdue = -announced
    return (
        min(stale_after, policy.OVERDUE_POLL) if overdue < policy.OVERDUE_PATIENCE else stale_after
    )
