"""Pools of psycopg_pool whose connections follow a credential source."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from pg_secrets.connect import aconnect, connect
from pg_secrets.fields import libpq_keywords
from pg_secrets.login import LoginParams
from pg_secrets.registry import SourceConfig, credential_source
from pg_secrets.source import CredentialSource

#: What psycopg's connect() and ours take beside libpq's keywords.
_DRIVER_PARAMS = frozenset(
    {
        "autocommit",
        "conninfo",
        "context",
        "cursor_factory",
        "prepare_threshold",
        "rejection_timeout",
        "row_factory",
    }
)


def pool_kwargs(
    source: SourceConfig, *, connection_class: type[Any] | None = None, **params: Any
) -> dict[str, Any]:
    """Return keyword arguments that make a psycopg_pool (3.3 or later) follow a source.

    For ``ConnectionPool(**pool_kwargs(source, …))`` and ``AsyncConnectionPool`` alike: each new
    connection logs in as :func:`connect` and :func:`aconnect` do, with the credentials of that
    moment. ``params`` are as there; ``connection_class`` goes here and not to the pool. A
    synchronous ``NullConnectionPool`` that is used in an event loop's thread needs one
    (``psycopg.Connection`` will do), as it connects there and not in a thread of its own.

    Raises:
        TypeError: a parameter is no connection's; the pool's own go to the pool.
        CredentialsError: as :func:`credential_source` does.
    """
    hidden = LoginParams(params)
    # What a traceback shows of this frame must not hold a password.
    del params
    unknown = hidden.keys() - libpq_keywords() - _DRIVER_PARAMS
    # A class of somebody else's may take what it likes.
    if unknown and connection_class is None:
        # Said now: a pool would only log it, and let its clients wait in vain.
        raise TypeError(
            f"pool_kwargs() got {min(unknown)!r}, which no connection takes; what the pool is to"
            " have goes to the pool itself"
        )
    return {"connection_class": _PoolConnector(credential_source(source), connection_class, hidden)}


class _PoolConnector:
    """Stands where a pool expects a connection class, of which it only calls ``connect``.

    The pool is given no parameters: in its frames they would be a plain dict, for all to see.
    """

    def __init__(
        self, source: CredentialSource, connection_class: type[Any] | None, params: LoginParams
    ) -> None:
        self._source = source
        self._class = connection_class
        self._params = params

    def connect(self, conninfo: str = "", **params: Any) -> Any:
        """Return a connection, or for an asynchronous pool an awaitable of one.

        ``params`` are what the pool adds, such as the time that its client has left.
        """
        own = LoginParams({**self._params, **params})
        if conninfo:
            own["conninfo"] = conninfo
        if self._is_async():
            return aconnect(
                self._source, connection_class=self._class or psycopg.AsyncConnection, **own
            )
        return connect(self._source, connection_class=self._class or psycopg.Connection, **own)

    def _is_async(self) -> bool:
        """Say what kind of pool asks: a synchronous one has threads of its own to connect in."""
        if self._class is not None:
            return issubclass(self._class, psycopg.AsyncConnection)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True
