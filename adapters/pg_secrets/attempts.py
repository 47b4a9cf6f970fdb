"""Which credentials a connect may try, for how long, and what is made of a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pg_secrets.credentials import Credentials
from pg_secrets.leases import Hold
from pg_secrets.login import LoginRejected
from pg_secrets.source import CredentialSource

#: Seconds between two looks at the source while waiting for other credentials.
LOOK = 0.25


class Attempts:
    """The rejection policy of one connect: which credentials may be tried, and until when."""

    def __init__(self, source: CredentialSource, patience: float) -> None:
        self.source = source
        self._clock = source.clock
        self._deadline = self._clock.monotonic() + patience
        self._refused: set[str] = set()
        self._latest: LoginRejected | None = None

    def may_try(self, credentials: Credentials) -> bool:
        """Say whether to try these now; else wait a little and look at the source again.

        Raises:
            LoginRejected: there were no other credentials in time.
        """
        fingerprint = credentials.fingerprint
        if fingerprint not in self._refused and self.source.gate.delay(fingerprint) == 0.0:
            return True
        if self._clock.monotonic() >= self._deadline:
            raise self._failure(fingerprint)
        return False

    @contextmanager
    def trying(self, credentials: Credentials) -> Iterator[Hold]:
        """Hold these for one try; a refusal is noted and ends the try, whatever else is raised."""
        hold = self.source.hold(credentials)
        try:
            yield hold
        except LoginRejected as error:
            hold.release()
            self._refused.add(credentials.fingerprint)
            self._latest = error
            self.source.rejected(credentials, error.sqlstate)
        except BaseException:  # an interrupt or a cancellation must not keep the lease either
            hold.release()
            raise

    def _failure(self, fingerprint: str) -> LoginRejected:
        seconds = self.source.gate.remaining(fingerprint)
        latest = self._latest
        text = "this login was refused a moment ago" if latest is None else str(latest)
        return LoginRejected(
            f"{text} (the store has no other; the same may be tried again in {seconds:.1f} s)",
            sqlstate=None if latest is None else latest.sqlstate,
            retry_after=seconds,
        )
