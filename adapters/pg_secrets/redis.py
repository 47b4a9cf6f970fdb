"""redis-py's credential provider, fed by a credential source.

Imports redis, 6.0 or later: ``pip install 'channels-pg-secrets[redis]'``.
"""

from __future__ import annotations

from typing import Any

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from pg_secrets.credentials import Credentials
from pg_secrets.redaction import scrubbed
from pg_secrets.registry import SourceConfig, credential_source

__all__ = ["SourceCredentialProvider", "login_arguments"]


def login_arguments(credentials: Credentials, user: str | None = None) -> tuple[str, ...]:
    """Return what ``AUTH`` is called with; nothing where there is no login at all.

    ``user`` is meant where the credentials name none.
    """
    user = credentials.user or user
    if user:
        return (user, credentials.password or "")
    return (credentials.password,) if credentials.password else ()


class SourceCredentialProvider(CredentialProvider):
    """Gives redis-py's connections the login that a source has when they are opened.

    For ``Redis(credential_provider=…)``, synchronous or not. ``user`` is meant where the
    credentials name none. So that a login that Redis refuses is fetched again, also pass
    ``redis_connect_func=provider.log_in``, or ``provider.log_in_async`` to an asyncio client.
    May be called from any thread.
    """

    def __init__(self, source: SourceConfig, *, user: str | None = None) -> None:
        self._source = credential_source(source)
        self._user = user

    def get_credentials(self) -> Any:
        """Return user and password; blocks while the source has none.

        Raises:
            CredentialsError: there are no credentials.
        """
        return login_arguments(self._source.get(), self._user)

    async def get_credentials_async(self) -> Any:
        """Do what :meth:`get_credentials` does without blocking the event loop."""
        return login_arguments(await self._source.aget(), self._user)

    def log_in(self, connection: Any) -> None:
        """Log a new connection in, and tell the source what came of it.

        redis-py itself, from 7.2 on, tries a refused connection again if its ``retry`` says so.
        Credentials that were refused are tried as seldom as the source's policy says.

        Raises:
            AuthenticationError: Redis refuses the login, or did so a moment ago.
            CredentialsError: there are no credentials.
        """
        credentials = self._source.get()
        connection.credential_provider = self._admitted(credentials)
        failure: BaseException
        try:
            connection.on_connect()
        except BaseException as error:  # noqa: BLE001 - its frames know the password
            failure = self._refused(credentials, error)
        else:
            self._source.valid_until(credentials, None)
            return
        finally:
            connection.credential_provider = self
        raise failure

    async def log_in_async(self, connection: Any) -> None:
        """Do what :meth:`log_in` does for a connection of ``redis.asyncio``."""
        credentials = await self._source.aget()
        connection.credential_provider = self._admitted(credentials)
        failure: BaseException
        try:
            await connection.on_connect()
        except BaseException as error:  # noqa: BLE001 - its frames know the password
            failure = self._refused(credentials, error)
        else:
            self._source.valid_until(credentials, None)
            return
        finally:
            connection.credential_provider = self
        raise failure

    def _admitted(self, credentials: Credentials) -> CredentialProvider:
        seconds = self._source.gate.delay(credentials.fingerprint)
        if seconds > 0.0:
            raise AuthenticationError(
                "Redis refused this login a moment ago, and the store has no other"
                f" (it may be tried again in {seconds:.1f} s)"
            )
        return _Decided(login_arguments(credentials, self._user))

    def _refused(self, credentials: Credentials, error: BaseException) -> BaseException:
        if isinstance(error, AuthenticationError):
            self._source.rejected(credentials)
        return scrubbed(error)


class _Decided(CredentialProvider):
    """Gives one connection the credentials that were decided on, whatever the source gets."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._arguments = arguments

    def get_credentials(self) -> Any:
        return self._arguments

    async def get_credentials_async(self) -> Any:
        return self._arguments
