"""Why a login failed: the SQLSTATE, which psycopg does not give for a failed connect.

libpq puts it into the error message when asked to be verbose. psycopg has no call for that, but
hands out the ``PGconn`` pointer for calls it does not wrap, and the extension module leads to the
very libpq it was linked with. Tracing into a file gives the SQLSTATE as well, at a price: each
traced connection leaks a C stream, and under cleartext authentication the file holds the password.
"""

from __future__ import annotations

import ctypes
import re
import sys
import time
from collections.abc import Callable, Generator, Hashable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import Any, cast

import psycopg
from psycopg import pq
from psycopg.waiting import Wait

_DEFAULT, _VERBOSE = 1, 2

# "FATAL:  28P01: password authentication failed…": whatever the language, two blanks come first.
_CODE = re.compile(r":  ([0-9A-Z]{5}): ")
_LOCATION = re.compile(r"^[^\s:]+:  \w+, [\w.]+:\d+\n?", re.MULTILINE)

#: Noted instead of a SQLSTATE where the server wants a password and libpq has none to send.
NO_PASSWORD = ""

#: The SQLSTATEs that the server gave for the attempts of the connect under way.
seen_sqlstates: ContextVar[list[str] | None] = ContextVar("seen_sqlstates", default=None)


@lru_cache(maxsize=1)
def _verbosity_setter() -> Callable[[int, int], int] | None:
    """Return libpq's ``PQsetErrorVerbosity``, or ``None`` where it cannot be had."""
    with suppress(AttributeError, ImportError, KeyError, OSError, TypeError, ValueError):
        library = _library()
        address = ctypes.cast(library.PQsetErrorVerbosity, ctypes.c_void_p).value
        if address and library.PQlibVersion() == pq.version():
            return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(address)
    return None


def _library() -> Any:
    if pq.__impl__ == "python":
        return import_module("psycopg.pq._pq_ctypes").pq
    # Symbols are looked for in what the extension module was linked with, too.
    return ctypes.CDLL(sys.modules[f"psycopg_{pq.__impl__}.pq"].__file__ or "")


def readable() -> bool:
    """Say whether SQLSTATEs of failed connects can be had with this psycopg and libpq."""
    return _verbosity_setter() is not None and hasattr(psycopg.Connection, "_connect_gen")


def classifying(connection_class: type[Any]) -> type[Any]:
    """Return a class whose ``connect`` notes SQLSTATEs and makes a ``connection_class``.

    psycopg's own ``connect`` stays in charge of hosts, attempts and time-outs; only the step that
    brings one libpq connection up is replaced. A class that brings its own is left alone.
    """
    return _classifying(cast("Hashable", connection_class))


@lru_cache(maxsize=64)
def _classifying(connection_class: Any) -> type[Any]:
    own = getattr(connection_class, "_connect_gen", None)
    theirs = getattr(psycopg.Connection, "_connect_gen", None)
    if not readable() or getattr(own, "__func__", None) is not getattr(theirs, "__func__", None):
        return connection_class  # type: ignore[no-any-return]

    def connect_gen(
        _cls: type[Any], conninfo: str = "", *, timeout: float = 0.0
    ) -> Generator[tuple[int, Wait], Any, Any]:
        pgconn = yield from _connect(conninfo, timeout)
        return connection_class(pgconn)

    name = f"Classifying{connection_class.__name__}"
    return type(name, (connection_class,), {"_connect_gen": classmethod(connect_gen)})


def _connect(conninfo: str, timeout: float) -> Generator[tuple[int, Wait], Any, Any]:
    # psycopg before 3.3 leaves the time-out to this generator, later ones to whoever drives it.
    deadline = time.monotonic() + timeout if timeout else float("inf")
    set_verbosity = _verbosity_setter()
    pgconn: Any = pq.PGconn.connect_start(conninfo.encode())
    pointer = pgconn.pgconn_ptr
    if set_verbosity is not None and pointer:
        set_verbosity(pointer, _VERBOSE)
    while True:
        status = _polled(pgconn)
        if status == pq.PollingStatus.OK:
            break
        wait = Wait.R if status == pq.PollingStatus.READING else Wait.W
        while not (yield pgconn.socket, wait):
            if time.monotonic() > deadline:
                pgconn.finish()
                raise psycopg.errors.ConnectionTimeout("connection timeout expired")
    if set_verbosity is not None and pointer:
        set_verbosity(pointer, _DEFAULT)
    pgconn.nonblocking = 1
    return pgconn


def _polled(pgconn: Any) -> int:
    status = pq.PollingStatus.FAILED
    if pgconn.status != pq.ConnStatus.BAD:
        status = pgconn.connect_poll()
    if status != pq.PollingStatus.FAILED:
        return status
    message = pgconn.error_message.decode("utf-8", "replace")
    noted = seen_sqlstates.get()
    if noted is not None:
        noted.extend([NO_PASSWORD] if pgconn.needs_password else _CODE.findall(message))
    pgconn.finish()
    raise psycopg.OperationalError(f"connection failed: {_LOCATION.sub('', message).strip()}")
