"""Which login redis-py's connections of one host use, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from redis.credentials import CredentialProvider

from pg_secrets.credentials import Credentials
from pg_secrets.redis import login_arguments
from pg_secrets.source import CredentialSource


@dataclass
class Logins:
    """Where the connections of one host take their login from. Safe from any thread.

    ``user`` and ``password`` are meant where the credentials have none. ``patience`` is the number
    of seconds for which a connection that was refused waits for other credentials. ``given`` says
    that the settings have the login, so that there is no store to be asked for another.
    """

    source: CredentialSource
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    patience: float = 0.0
    given: bool = False
    #: The fingerprint of the credentials that Redis took last.
    taken: str | None = field(default=None, init=False, repr=False)

    def arguments(self, credentials: Credentials) -> tuple[str, ...]:
        """Return what ``AUTH`` is called with; nothing where there is no login at all."""
        whole = replace(credentials, password=credentials.password or self.password)
        return login_arguments(whole, self.user)

    def accepted(self, credentials: Credentials) -> None:
        """Note that Redis took these."""
        self.taken = credentials.fingerprint
        self.source.valid_until(credentials, None)

    def refused(self, credentials: Credentials) -> None:
        """Note that Redis refused these."""
        if self.taken == credentials.fingerprint:
            self.taken = None
        if self.given:
            self.source.gate.rejected(credentials.fingerprint)
        else:
            self.source.rejected(credentials)


class Answering(CredentialProvider):
    """Tells redis-py, from memory, the credentials that a connection has decided on."""

    def __init__(self, logins: Logins) -> None:
        self.logins = logins
        self.credentials: Credentials | None = None

    def get_credentials(self) -> Any:
        return () if self.credentials is None else self.logins.arguments(self.credentials)

    async def get_credentials_async(self) -> Any:
        return self.get_credentials()
