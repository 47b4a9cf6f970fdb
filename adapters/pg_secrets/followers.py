"""What a connection remembers of the login that it was opened with."""

from __future__ import annotations

import weakref
from typing import Any

from pg_secrets.credentials import Credentials
from pg_secrets.leases import Hold
from pg_secrets.source import CredentialSource


class Follower:
    """Mixed into connections: knows source and generation, and keeps the hold on the login."""

    _login_source: CredentialSource | None = None
    _login_generation = 0
    _login_hold: Hold | None = None
    closed: bool

    def follow(self, source: CredentialSource, credentials: Credentials, hold: Hold) -> None:
        """Note what this connection logged in with; hold it until the connection is closed."""
        self._login_source, self._login_hold = source, hold
        self._login_generation = credentials.generation
        # For a connection that is dropped instead of closed. One that is in use at exit is not:
        # it is waited for a little before its lease is given back.
        weakref.finalize(self, hold.release).atexit = False

    def is_outdated(self) -> bool:
        """Say whether the source has another login by now."""
        source = self._login_source
        return source is not None and source.generation > self._login_generation

    def release_if_closed(self) -> None:
        """Release the hold, unless a pool has taken the connection back instead of closing it."""
        if self._login_hold is not None and self.closed:
            self._login_hold.release()


def outdated(connection: Any) -> bool:
    """Say whether the login of a connection has been replaced by another one since it was opened.

    For pools that are not psycopg's: a connection of theirs that is outdated is to be closed
    before anybody gets it again. ``connection`` comes from :func:`connect`, :func:`aconnect` or
    :func:`pg_secrets.asyncpg.connect`. Never blocks and asks nobody; may be called from any
    thread.

    Raises:
        TypeError: the connection was opened by somebody else.
    """
    follower = getattr(connection, "is_outdated", None)
    if follower is None:
        raise TypeError(f"a connection of pg_secrets is expected, not {type(connection).__name__}")
    return bool(follower())
