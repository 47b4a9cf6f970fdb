"""The first of several places that holds credentials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import AdapterMisconfigured, CredentialsNotFound
from pg_secrets.options import Options
from pg_secrets.redaction import stripping


class ChainAdapter(CredentialAdapter):
    """Asks one adapter after the other until one has credentials, and stays with that one.

    ``ADAPTERS`` (list of names and mappings, each as ``CREDENTIALS`` takes it)
        Where to look, in this order: say, variables on a laptop, a mounted secret in a container.
        ``TTL``, ``BACKGROUND`` and ``SHARED`` stand beside it, and not in one of them.

    Only "there is nothing" leads on to the next: a variable that is not set, a file or a secret
    that does not exist. A store that is away, that refuses, or whose answer is malformed is an
    error: another place might hold another identity's login. Safe to use from several threads, one
    call at a time, and after a fork.
    """

    name: ClassVar[str] = "chain"

    def __init__(self, adapters: Sequence[CredentialAdapter]) -> None:
        self._adapters = list(adapters)
        self._chosen: CredentialAdapter | None = None

    def __repr__(self) -> str:
        return f"<ChainAdapter {' '.join(map(repr, self._adapters))}>"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ChainAdapter:
        """Build all of them; nothing is sent.

        Raises:
            AdapterMisconfigured: there is none, or one of them has wrong settings.
            AdapterNotInstalled: the package that one of them needs is missing.
        """
        from pg_secrets.registry import BESIDE, credential_adapter  # which knows us by name

        options = Options(config, adapter="chain")
        entries = options.items("ADAPTERS")
        options.finish()
        adapters = []
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, (str, Mapping)):
                raise options.error("ADAPTERS", f"number {number} is neither a name nor a mapping")
            own = sorted(BESIDE & set(entry)) if isinstance(entry, Mapping) else []
            if own:
                raise options.error(
                    "ADAPTERS", f"number {number} has {own[0]}, which belongs beside ADAPTERS"
                )
            try:
                adapters.append(credential_adapter(entry))
            except AdapterMisconfigured as error:
                raise options.error("ADAPTERS", f"number {number}: {error}") from None
        return cls(adapters)

    @stripping
    def fetch(self) -> Credentials:
        """Ask the adapter that had credentials before, or each in turn.

        Raises:
            CredentialsNotFound: none of them has any, or the one that had has none any more.
            CredentialsError: what the adapter that was asked raises.
        """
        if self._chosen is not None:
            return self._chosen.fetch()
        nothing = []
        for adapter in self._adapters:
            try:
                found = adapter.fetch()
            except CredentialsNotFound as error:
                nothing.append(str(error))
                continue
            self._chosen = adapter
            return found
        raise CredentialsNotFound(f"adapter 'chain': nothing anywhere: {'; '.join(nothing)}")

    @stripping
    def renew(self, credentials: Credentials) -> Credentials | None:
        """Renew where they came from."""
        return self._chosen.renew(credentials) if self._chosen is not None else None

    @stripping
    def revoke(self, credentials: Credentials) -> None:
        """Give them back where they came from."""
        if self._chosen is not None:
            self._chosen.revoke(credentials)

    @stripping
    def changed(self, credentials: Credentials) -> bool | None:
        """Ask where they came from."""
        return self._chosen.changed(credentials) if self._chosen is not None else None

    def rejected(self, credentials: Credentials) -> None:
        """Pass it on to where they came from."""
        if self._chosen is not None:
            self._chosen.rejected(credentials)

    def policy(self) -> str | None:
        """Return what any of them needs."""
        return " ".join(filter(None, (adapter.policy() for adapter in self._adapters))) or None

    @stripping
    def lease_ground(self, credentials: Credentials) -> Mapping[str, Any] | None:
        """Say where they came from, and what they hang on there."""
        if self._chosen is None:
            return None
        ground = self._chosen.lease_ground(credentials)
        return {"number": self._adapters.index(self._chosen), "ground": ground}

    @stripping
    def take_ground(self, credentials: Credentials, ground: Mapping[str, Any]) -> None:
        """Stay with the one that another process found them in."""
        self._chosen = self._adapters[ground["number"]]
        if ground["ground"] is not None:
            self._chosen.take_ground(credentials, ground["ground"])

    @stripping
    def leave(self) -> None:
        """Leave all of them."""
        for adapter in self._adapters:
            adapter.leave()

    def forked(self) -> None:
        """Tell all of them."""
        for adapter in self._adapters:
            adapter.forked()

    @stripping
    def close(self) -> None:
        """Close all of them."""
        for adapter in self._adapters:
            adapter.close()
