"""One attempt to log in: its failure classified, and no password left in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, overload

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_secrets.redaction import scrubbed
from pg_secrets.sqlstate import NO_PASSWORD, classifying, seen_sqlstates

#: The class of SQLSTATEs that say "not with this login".
REJECTED = "28"
_FIRST_RETRY = 0.5
_SHOWN = frozenset({"host", "hostaddr", "port", "dbname", "user"})
_SHORTEST_REDACTED = 3

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "fallback_application_name": "pg_secrets",
}

C = TypeVar("C")


class LoginRejected(psycopg.OperationalError):
    """The server refused the login (SQLSTATE class 28): other credentials are needed.

    ``sqlstate`` is what it said, ``None`` where that could not be read. ``retry_after`` is the
    number of seconds until the same login may be tried again.
    """

    def __init__(
        self, message: str = "", *, sqlstate: str | None = None, retry_after: float = _FIRST_RETRY
    ) -> None:
        super().__init__(message or "the server refused the login")
        self.sqlstate = sqlstate
        self.retry_after = retry_after


class LoginParams(dict[str, Any]):
    """Keywords for psycopg's ``connect`` whose ``repr`` shows where and who, and nothing else."""

    def __repr__(self) -> str:
        shown = " ".join(f"{key}={self[key]!r}" for key in sorted(self.keys() & _SHOWN))
        return f"<LoginParams {shown}>"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("LoginParams may hold a password and cannot be pickled")


def with_defaults(params: Mapping[str, Any]) -> LoginParams:
    """Return the parameters with sensible time-outs and keepalives where there are none.

    Raises:
        psycopg.ProgrammingError: there is a ``conninfo`` and it is malformed.
    """
    keywords = LoginParams(params)
    try:
        given = {**conninfo_to_dict(keywords.get("conninfo") or ""), **keywords}
    except psycopg.ProgrammingError:
        given = None
    if given is None:
        # The driver's message would show the part that it could not read: maybe the password.
        raise psycopg.ProgrammingError("conninfo: it is no connection string that libpq can read")
    if given.get("service") or os.environ.get("PGSERVICE"):
        return keywords
    for key, value in _DEFAULTS.items():
        if given.get(key) is None and f"PG{key.upper()}" not in os.environ:
            keywords[key] = value
    return keywords


@overload
def open_sync(params: Mapping[str, Any]) -> psycopg.Connection[Any]: ...
@overload
def open_sync(params: Mapping[str, Any], *, connection_class: type[C]) -> C: ...
def open_sync(
    params: Mapping[str, Any], *, connection_class: type[Any] = psycopg.Connection
) -> Any:
    """Open one connection in one attempt (for each host named); blocks.

    ``params`` are keywords of psycopg's ``connect``; time-outs and keepalives are added where
    absent. No exception that leaves holds the password, a ``pgconn`` or a driver's frame.

    Raises:
        LoginRejected: the server refused the login.
        psycopg.OperationalError: anything else went wrong; ``sqlstate`` is set if there was one.
    """
    keywords = with_defaults(params)
    del params
    sqlstates: list[str] = []
    seen_sqlstates.set(sqlstates)
    failure: BaseException
    try:
        return classifying(connection_class).connect(**keywords)
    except BaseException as error:  # noqa: BLE001 - also an interrupt shows the driver's frames
        failure = _classified(error, sqlstates, keywords)
    finally:
        seen_sqlstates.set(None)
    raise failure


@overload
async def open_async(params: Mapping[str, Any]) -> psycopg.AsyncConnection[Any]: ...
@overload
async def open_async(params: Mapping[str, Any], *, connection_class: type[C]) -> C: ...
async def open_async(
    params: Mapping[str, Any], *, connection_class: type[Any] = psycopg.AsyncConnection
) -> Any:
    """Do what :func:`open_sync` does on an event loop.

    Raises:
        LoginRejected: the server refused the login.
        psycopg.OperationalError: anything else went wrong; ``sqlstate`` is set if there was one.
    """
    keywords = with_defaults(params)
    del params
    sqlstates: list[str] = []
    seen_sqlstates.set(sqlstates)
    failure: BaseException
    try:
        return await classifying(connection_class).connect(**keywords)
    except BaseException as error:  # noqa: BLE001 - also a cancellation shows the driver's frames
        failure = _classified(error, sqlstates, keywords)
    finally:
        seen_sqlstates.set(None)
    raise failure


def _classified(error: BaseException, sqlstates: list[str], keywords: LoginParams) -> BaseException:
    """Return what to raise instead of a driver's error."""
    # Frees the driver's frames, with the password and the socket in them, now and not at the next
    # garbage collection: the exception and its frames refer to each other.
    scrubbed(error)
    if not isinstance(error, psycopg.Error):
        return error
    text = _redacted(str(error), keywords)
    refusals = [code for code in sqlstates if code.startswith(REJECTED) or code == NO_PASSWORD]
    if refusals:
        return LoginRejected(text, sqlstate=refusals[-1] or None)
    if isinstance(error, psycopg.OperationalError) and _looks_rejected(error):
        return LoginRejected(text)
    clean = type(error)(text)
    if sqlstates:
        clean.sqlstate = sqlstates[-1]
    return clean


def _looks_rejected(error: psycopg.OperationalError) -> bool:
    """Guess, where no SQLSTATE can be read: a password was asked for, and then came the error."""
    pgconn = error.pgconn
    return pgconn is not None and bool(pgconn.needs_password or pgconn.used_password)


def _redacted(text: str, keywords: LoginParams) -> str:
    for key in ("password", "sslpassword"):
        secret = str(keywords.get(key) or "")
        if len(secret) >= _SHORTEST_REDACTED:
            text = text.replace(secret, "***")
    return text
