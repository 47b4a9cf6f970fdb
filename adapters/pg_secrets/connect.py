"""psycopg connections whose login comes from a credential source and follows it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import psycopg

from pg_secrets.credentials import Credentials
from pg_secrets.leases import Hold
from pg_secrets.login import LoginParams, LoginRejected, open_async, open_sync
from pg_secrets.registry import SourceConfig, credential_source
from pg_secrets.rejection import RejectionGate, login_fingerprint
from pg_secrets.role_end import VALID_UNTIL_SQL, role_end, role_end_async
from pg_secrets.source import CredentialSource

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

#: Seconds between two looks at the source while waiting for other credentials.
_LOOK = 0.25


class _Attempts:
    """The rejection policy of one ``connect``: which credentials may be tried, and until when."""

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
    attempts = _Attempts(credential_source(source), rejection_timeout)
    hidden = LoginParams(params)
    del params
    while True:
        credentials = attempts.source.get()
        if not attempts.may_try(credentials):
            attempts.source.pause(_LOOK)
            continue
        with attempts.trying(credentials) as hold:
            connection = open_sync(
                merged(credentials, {**hidden, "autocommit": True}),
                connection_class=_holding(connection_class),
            )
            connection.hold_until_closed(hold)
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
    attempts = _Attempts(credential_source(source), rejection_timeout)
    hidden = LoginParams(params)
    del params
    while True:
        credentials = await attempts.source.aget()
        if not attempts.may_try(credentials):
            await asyncio.sleep(_LOOK)
            continue
        with attempts.trying(credentials) as hold:
            connection = await open_async(
                merged(credentials, {**hidden, "autocommit": True}),
                connection_class=_holding(connection_class),
            )
            connection.hold_until_closed(hold)
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


class _Holder:
    """Mixed into connections: keeps the hold on the credentials they logged in with."""

    _hold: Hold | None = None
    closed: bool

    def hold_until_closed(self, hold: Hold) -> None:
        self._hold = hold
        # For a connection that is dropped instead of closed. One that is in use at exit is not:
        # it is waited for a little before its lease is given back.
        weakref.finalize(self, hold.release).atexit = False

    def _release(self) -> None:
        # A pool may have taken the connection back instead of letting it close.
        if self._hold is not None and self.closed:
            self._hold.release()


class _SyncHolder(_Holder):
    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self._release()


class _AsyncHolder(_Holder):
    async def close(self) -> None:
        await super().close()  # type: ignore[misc]
        self._release()


def _holding(connection_class: type[Any]) -> type[Any]:
    return _mixed(cast("Hashable", connection_class))


@lru_cache(maxsize=64)
def _mixed(connection_class: Any) -> type[Any]:
    asynchronous = issubclass(connection_class, psycopg.AsyncConnection)
    mixin = _AsyncHolder if asynchronous else _SyncHolder
    return type(connection_class.__name__, (mixin, connection_class), {})
