"""psycopg connections whose login comes from a credential source and follows it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, cast

import psycopg

from pg_secrets.attempts import LOOK, Attempts
from pg_secrets.credentials import Credentials
from pg_secrets.followers import Follower
from pg_secrets.login import LoginParams, LoginRejected, open_async, open_sync
from pg_secrets.registry import SourceConfig, credential_source
from pg_secrets.rejection import RejectionGate, login_fingerprint
from pg_secrets.role_end import VALID_UNTIL_SQL, role_end, role_end_async

__all__ = [
    "VALID_UNTIL_SQL",
    "LoginRejected",
    "RejectionGate",
    "aconnect",
    "connect",
    "login_fingerprint",
    "open_async",
    "open_sync",
]


def connect(
    source: SourceConfig,
    *,
    rejection_timeout: float = 10.0,
    connection_class: type[Any] = psycopg.Connection,
    **params: Any,
) -> psycopg.Connection[Any]:
    """Return a psycopg connection that logs in with a source's credentials; blocks.

    ``params`` are those of ``psycopg.connect``; they win over what the credentials say, but for
    user and password. When the server refuses the login, the source is told, and for
    ``rejection_timeout`` seconds other credentials are waited for: the same are never tried twice.
    The credentials are held until the connection is closed. ``connect_timeout`` (seconds, 5) bounds
    each login, and then the one question asked of the server: when the role ends.

    Raises:
        CredentialsError: there are no credentials.
        LoginRejected: the server refused all there were; ``retry_after`` says when to come back.
        psycopg.OperationalError: the server cannot be reached, cannot serve or does not answer.
    """
    attempts = Attempts(credential_source(source), rejection_timeout)
    hidden = LoginParams(params)
    del params
    while True:
        credentials = attempts.source.get()
        if not attempts.may_try(credentials):
            attempts.source.pause(LOOK)
            continue
        with attempts.trying(credentials) as hold:
            connection = open_sync(
                merged(credentials, {**hidden, "autocommit": True}),
                connection_class=_holding(connection_class),
            )
            connection.follow(attempts.source, credentials, hold)
            try:
                attempts.source.valid_until(credentials, role_end(connection))
                connection.autocommit = bool(hidden.get("autocommit", False))
            except BaseException:  # nobody else has the session yet
                connection.close()
                raise
            return connection  # type: ignore[no-any-return]


async def aconnect(
    source: SourceConfig,
    *,
    rejection_timeout: float = 10.0,
    connection_class: type[Any] = psycopg.AsyncConnection,
    **params: Any,
) -> psycopg.AsyncConnection[Any]:
    """Do what :func:`connect` does on an event loop, without blocking it.

    Raises:
        CredentialsError: there are no credentials.
        LoginRejected: the server refused all there were; ``retry_after`` says when to come back.
        psycopg.OperationalError: the server cannot be reached, cannot serve or does not answer.
    """
    attempts = Attempts(credential_source(source), rejection_timeout)
    hidden = LoginParams(params)
    del params
    while True:
        credentials = await attempts.source.aget()
        if not attempts.may_try(credentials):
            await asyncio.sleep(LOOK)
            continue
        with attempts.trying(credentials) as hold:
            connection = await open_async(
                merged(credentials, {**hidden, "autocommit": True}),
                connection_class=_holding(connection_class),
            )
            connection.follow(attempts.source, credentials, hold)
            try:
                attempts.source.valid_until(credentials, await role_end_async(connection))
                await connection.set_autocommit(bool(hidden.get("autocommit", False)))
            except BaseException:  # nobody else has the session yet
                await connection.close()
                raise
            return connection  # type: ignore[no-any-return]


def merged(credentials: Credentials, params: Mapping[str, Any]) -> LoginParams:
    """Return the caller's parameters over the credentials', but for user and password."""
    login = credentials.connection_params()
    own: dict[str, Any] = {key: login[key] for key in ("user", "password") if key in login}
    return LoginParams({**login, **params, **own})


# holding ----------------------------------------------------------------------------------


class _SyncHolder(Follower):
    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self.release_if_closed()


class _AsyncHolder(Follower):
    async def close(self) -> None:
        await super().close()  # type: ignore[misc]
        self.release_if_closed()


def _holding(connection_class: type[Any]) -> type[Any]:
    return _mixed(cast("Hashable", connection_class))


@lru_cache(maxsize=64)
def _mixed(connection_class: Any) -> type[Any]:
    asynchronous = issubclass(connection_class, psycopg.AsyncConnection)
    mixin = _AsyncHolder if asynchronous else _SyncHolder
    return type(connection_class.__name__, (mixin, connection_class), {})
