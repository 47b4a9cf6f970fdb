"""asyncpg connections whose login comes from a credential source and follows it.

Imports asyncpg, 0.30 or later, which has to be installed beside this package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlencode

import asyncpg

from pg_secrets.attempts import LOOK, Attempts
from pg_secrets.credentials import Credentials
from pg_secrets.followers import Follower
from pg_secrets.login import LoginParams, LoginRejected
from pg_secrets.redaction import scrubbed
from pg_secrets.registry import SourceConfig, credential_source
from pg_secrets.role_end import VALID_UNTIL_SQL

__all__ = ["connect"]

#: Seconds for one login, as libpq's ``connect_timeout``.
_TIMEOUT = 5.0


async def connect(
    source: SourceConfig,
    dsn: str | None = None,
    *,
    rejection_timeout: float = 10.0,
    connection_class: type[Any] = asyncpg.Connection,
    **params: Any,
) -> asyncpg.Connection:
    """Return an asyncpg connection that logs in as :func:`pg_secrets.aconnect` does.

    ``dsn`` and ``params`` are those of ``asyncpg.connect``; they win over what the credentials
    say, but for user and password. Each login, and then the one question asked of the server, may
    take ``timeout`` seconds (5). For a pool: ``create_pool(connect=partial(connect, source))``.

    Raises:
        CredentialsError: there are no credentials.
        LoginRejected: the server refused all there were; ``retry_after`` says when to come back.
        asyncpg.PostgresError, OSError, TimeoutError: the server cannot be reached, cannot serve or
            does not answer.
    """
    attempts = Attempts(credential_source(source), rejection_timeout)
    hidden = LoginParams({"timeout": _TIMEOUT, **params})
    if dsn is not None:
        hidden["dsn"] = dsn
    del params, dsn
    following = _following(cast("Hashable", connection_class))
    while True:
        credentials = await attempts.source.aget()
        if not attempts.may_try(credentials):
            await asyncio.sleep(LOOK)
            continue
        with attempts.trying(credentials) as hold:
            connection = await _open(merged(credentials, hidden), following)
            connection.follow(attempts.source, credentials, hold)
            release = hold.release  # must not refer to the connection
            connection.add_termination_listener(lambda _, release=release: release())
            try:
                end = await _role_end(connection, hidden["timeout"])
                attempts.source.valid_until(credentials, end)
            except BaseException:  # nobody else has the session yet
                connection.terminate()
                raise
            return connection


def merged(credentials: Credentials, params: Mapping[str, Any]) -> LoginParams:
    """Return the caller's parameters over the credentials', but for user and password."""
    login = {"user": credentials.user, "password": credentials.password}
    own = {key: value for key, value in login.items() if value is not None}
    found = LoginParams({**params, **own})
    # asyncpg knows libpq's keywords only in a URL, and of them not this one.
    others = {k: v for k, v in credentials.parameters.items() if k != "connect_timeout"}
    if others:
        found.setdefault("dsn", f"postgresql://?{urlencode(others)}")
    return found


async def _open(params: LoginParams, connection_class: type[Any]) -> Any:
    """Log in once; no frame of a driver, which knows the password, leaves with an error."""
    failure: BaseException
    try:
        return await asyncpg.connect(connection_class=connection_class, **params)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        failure = LoginRejected(f"login refused: {error}", sqlstate=error.sqlstate)
        scrubbed(error)
    except BaseException as error:  # noqa: BLE001 - also a cancellation shows the driver's frames
        failure = scrubbed(error)
    raise failure


async def _role_end(connection: Any, timeout: float | None) -> float | None:
    """Return when the session's role ends (epoch seconds), ``None`` for never or unknown."""
    try:
        end: float | None = await connection.fetchval(VALID_UNTIL_SQL, timeout=timeout)
    except asyncpg.PostgresError:
        if connection.is_closed():
            raise
        return None  # whatever stands between does not let us ask: the session is good
    return end


@lru_cache(maxsize=64)
def _following(connection_class: Any) -> type[Any]:
    return type(connection_class.__name__, (Follower, connection_class), {})
