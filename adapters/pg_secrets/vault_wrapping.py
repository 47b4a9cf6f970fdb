"""Response wrapping: a token that says nothing, for which Vault hands out a secret once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Generic, TypeVar

from pg_secrets.errors import CredentialsDenied, CredentialsInvalid
from pg_secrets.vault.client import VaultClient
from pg_secrets.vault.errors import Answer

T = TypeVar("T")


class Wrapping(Generic[T]):
    """Takes out what is wrapped, once for each wrapping token, and keeps it in memory.

    ``what`` is what an error calls it, ``pick`` finds it in Vault's answer. Not thread-safe.
    """

    def __init__(self, what: str, pick: Callable[[Answer, str], T | None]) -> None:
        self._what = what
        self._pick = pick
        #: The wrapping token that was used up, and what was in it.
        self._taken: tuple[str, T] | None = None

    def content(self, client: VaultClient, given: str) -> T:
        """Return what is in the wrapping token ``given``, which is used up by the first call.

        Raises:
            CredentialsDenied: it is not valid, which is what Vault says of one that was used.
            CredentialsInvalid: something else is in it.
            CredentialsError: as :meth:`Answer.error` says.
        """
        if self._taken is None or self._taken[0] != given:
            self._taken = given, self._unwrapped(client, _wrapping_token(given))
        return self._taken[1]

    def _unwrapped(self, client: VaultClient, wrapping_token: str) -> T:
        answer = client.send(lambda vault: vault.sys.unwrap(), token=wrapping_token)
        purpose = f"Vault, unwrapping the {self._what}"
        if answer.refuses(400, 403):
            raise CredentialsDenied(
                f"{purpose}: the wrapping token is not valid, was used already, or has expired"
                f" ({answer.words}); if nobody here has used it, somebody else has: then take the"
                f" {self._what} for stolen, and have it revoked"
            )
        content = self._pick(answer, purpose)
        if not content:
            raise CredentialsInvalid(f"{purpose}: there is no {self._what} in it")
        return content


def text(value: object) -> str | None:
    """Return what is text, and nothing for anything else."""
    return value if isinstance(value, str) else None


def _wrapping_token(given: str) -> str:
    """Return the token itself: Vault Agent's sink writes it into an object with its life."""
    if not given.startswith("{"):
        return given
    try:
        token = json.loads(given)["token"]
    except (ValueError, KeyError, RecursionError):
        token = None
    if not isinstance(token, str) or not token:
        raise CredentialsInvalid("Vault, unwrapping: what was given is neither a token nor JSON")
    return token
