"""The contract between one store of secrets and the source that manages it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pg_secrets.credentials import Credentials


class CredentialAdapter(ABC):
    """Fetches one :class:`Credentials` snapshot from one place.

    Subclasses implement :meth:`fetch`; the rest is optional. All methods are synchronous, may
    block for as long as their own time-outs allow, are called from worker threads, and never two
    at a time for one adapter (the source serialises them). They raise only the
    :class:`~pg_secrets.errors.CredentialsError` family.
    """

    name: ClassVar[str] = ""
    #: Seconds a fetched value is used before it is asked for again; ``None`` takes the source's.
    ttl: float | None = None

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any]) -> CredentialAdapter:
        """Build from settings (keys in capitals, ``ADAPTER`` taken out).

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: the SDK it needs is not there.
        """

    @abstractmethod
    def fetch(self) -> Credentials:
        """Ask the store for the current credentials, in one read that cannot tear."""

    def renew(self, credentials: Credentials) -> Credentials | None:
        """Extend the lease; ``None`` when the store refuses and new ones must be fetched."""
        return None

    def revoke(self, credentials: Credentials) -> None:  # noqa: B027 - optional
        """Give the lease back. Called once, at exit or after rotation, in the creating process."""

    def changed(self, credentials: Credentials) -> bool | None:
        """Say cheaply whether the store has something newer; ``None`` when only a fetch tells."""
        return None

    def rejected(self, credentials: Credentials) -> None:  # noqa: B027 - optional
        """Note that the database refused this login, which the next fetch may not want to repeat.

        Called in any thread, also during another call. Must not block or send anything.
        """

    def policy(self) -> str | None:
        """Return what the store's administrator has to allow, in the store's own language.

        For whoever was denied: one line of a policy, or the command that grants it. ``None`` where
        there is no such thing. Must not send anything, and must hold no secret.
        """
        return None

    def forked(self) -> None:  # noqa: B027 - optional
        """Drop what must not be shared with the parent process: sockets, sessions, tokens.

        Called in a forked child before anything else. Must not block, lock or send anything.
        """

    def close(self) -> None:  # noqa: B027 - optional
        """Free sockets and tokens. Called once; no other call follows."""

    # For leases that several processes share (the option SHARED); one of them may renew or revoke
    # what another one fetched.

    def lease_ground(self, credentials: Credentials) -> Mapping[str, Any] | None:
        """Return what a lease of ours hangs on (a token), in a form that JSON has, if anything."""
        return None

    def take_ground(self, credentials: Credentials, ground: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what another process's :meth:`lease_ground` returned for this lease."""

    def leave(self) -> None:
        """Do as :meth:`close`, but leave alone what leases hang on: others use them still."""
        self.close()
