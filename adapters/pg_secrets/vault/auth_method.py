"""What a way to prove to a Vault who we are has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from pg_secrets.errors import CredentialsDenied, CredentialsInvalid
from pg_secrets.options import Options
from pg_secrets.vault.client import VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.token import Token


class AuthMethod(ABC):
    """Gets a token. Called under the session's lock, never twice at a time."""

    name: ClassVar[str] = ""
    #: Whether logging in gives a new token each time, so that an old one can be replaced.
    repeatable: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_options(cls, options: Options) -> AuthMethod:
        """Build from the ``AUTH`` setting; ``METHOD`` has been read."""

    @abstractmethod
    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Return a token.

        Raises:
            CredentialsDenied: Vault refuses this identity.
            CredentialsError: anything else that went wrong.
        """

    def log_in_again(
        self, client: VaultClient, clock: Callable[[], float], refused: Token
    ) -> Token | None:
        """Return another token after ``refused`` was, or ``None`` when there is no other."""
        return self.log_in(client, clock)

    def changed(self) -> bool:
        """Say cheaply whether there is a newer identity than the one last used."""
        return False


def issued(answer: Answer, asked_at: float, purpose: str) -> Token:
    """Return the token that a login answered with.

    Raises:
        CredentialsDenied: Vault refused.
        CredentialsInvalid: there is no token in the answer.
        CredentialsError: as :meth:`Answer.error` says.
    """
    if answer.refuses(403, 404):
        # A login needs no token: this is what Vault says where nothing is mounted.
        raise CredentialsDenied(
            f"{purpose}: there is no such way in ({answer.words}); check AUTH's MOUNT and NAMESPACE"
        )
    auth = answer.section("auth", purpose)
    value = auth.get("client_token")
    if not isinstance(value, str) or not value:
        raise CredentialsInvalid(f"{purpose}: the answer holds no token")
    life = number(auth.get("lease_duration")) or None
    renewable, batch = auth.get("renewable") is True, auth.get("token_type") == "batch"
    return Token(value, asked_at, life, renewable=renewable and not batch, owned=not batch)


def number(value: Any) -> float | None:
    """Return a number of seconds that is not negative, or ``None`` for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return None
