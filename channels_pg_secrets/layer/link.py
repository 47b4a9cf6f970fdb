"""One of a node's two connections: what it is now, whether it needs another, and when to try."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from channels_pg_secrets.layer.wire import Wire

#: Seconds a connection lives at most, whatever the lease.
MAX_AGE = 3600.0
#: Seconds between attempts to connect: the first, and the longest.
FIRST_DELAY, LAST_DELAY = 0.05, 0.5
#: What is counted of failures in a row: more would only overflow.
_COUNTED = 20


@dataclass(eq=False)
class Link:
    """The publisher's or the listener's connection. Belongs to the home loop.

    ``generation`` below is that of the credentials there are now; None where there is no source.
    """

    name: str
    wire: Wire | None = None
    #: Opens the next connection.
    task: asyncio.Task[None] | None = None
    #: Another connection was asked for.
    replace: bool = False
    failures: int = 0
    _max_age: float = MAX_AGE
    _retry_at: float = 0.0
    #: The generation whose login was refused, if that is why it is waited.
    _refused: int | None = None
    #: The other link got in since the latest attempt began.
    _admitted: bool = False

    @property
    def up(self) -> bool:
        """The connection is there."""
        return self.wire is not None and self.wire.lost is None

    def wants(self, generation: int | None) -> bool:
        """It needs another connection: there is none, or it is too old, or was to be replaced."""
        wire = self.wire
        if wire is None or wire.lost is not None or self.replace:
            return True
        if generation is not None and generation > wire.opened.generation:
            return True
        return time.monotonic() - wire.opened.opened_at > self._max_age

    def due(self, generation: int | None) -> bool:
        """Its next attempt may be made: a login that was not refused yet need not be waited for."""
        if generation is not None and self._refused is not None and generation > self._refused:
            return True
        return time.monotonic() >= self._retry_at

    def begin(self) -> None:
        """An attempt to connect begins."""
        self.replace = False
        self._refused = None
        self._admitted = False

    def succeeded(self, lease: float | None) -> None:
        """It is connected, with credentials that are lent for so many seconds, if they are."""
        age = min(MAX_AGE, 0.9 * lease) if lease else MAX_AGE
        self._max_age = age * random.uniform(0.9, 1.0)  # noqa: S311
        self.failures = 0

    def failed(self, *, at_least: float = 0.0, refused: int | None = None) -> None:
        """An attempt failed: wait longer each time, and ``at_least`` so many seconds.

        ``refused`` is the generation that the server did not let in; if it has let in the other
        link meanwhile, that is out of date.
        """
        if refused is not None and self._admitted:
            at_least, refused = 0.0, None
        self.wait(max(at_least, backoff(self.failures)))
        self.failures = min(self.failures + 1, _COUNTED)
        self._refused = refused
        self.replace = self.up  # what it was to be replaced for has not changed

    def admitted(self) -> None:
        """The other link got in: what refused this one's login does so no more."""
        self._admitted = True
        if self._refused is not None:
            self._refused, self._retry_at = None, 0.0

    def wait(self, seconds: float) -> None:
        """Make the next attempt in so many seconds, or a little before."""
        self._retry_at = time.monotonic() + seconds * random.uniform(0.5, 1.0)  # noqa: S311


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(failures, _COUNTED))
