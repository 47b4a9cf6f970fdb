"""libpq on an event loop: one connection, one request at a time, notifications as they come.

psycopg's ``AsyncConnection`` opens and closes the connection; between the two this file drives its
``pgconn`` directly. It is twice as fast on the message path, and the only way to ask something on
a connection that listens: ``AsyncConnection.notifies()`` holds the connection's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import pq

from channels_pg_secrets.engines.connection import cut
from channels_pg_secrets.layer.statements import Decoder
from channels_pg_secrets.layer.waiter import turn

if TYPE_CHECKING:
    from channels_pg_secrets.engines.postgres import OpenedConnection

Rows = list[tuple[Any, ...]]
#: Called once with the rows, or with the exception.
Reply = Callable[[Rows, "Exception | None"], None]


class Request(Protocol):
    """What a wire can send: a statement of :mod:`.statements`."""

    @property
    def sql(self) -> bytes: ...
    @property
    def name(self) -> bytes: ...
    @property
    def formats(self) -> list[int]: ...
    @property
    def columns(self) -> tuple[Decoder, ...]: ...
    def encode(self, values: Sequence[Any]) -> list[bytes | None]: ...


class WireLost(psycopg.OperationalError):
    """The connection ended; whether the request in flight was carried out is not known."""


class Wire:
    """One open connection on the running loop. Every method belongs to that loop's thread.

    ``on_notify`` gets each notification's payload; ``on_lost`` is called once when the connection
    ends by itself; ``on_idle`` whenever nothing is in flight or waiting.
    """

    def __init__(self, opened: OpenedConnection) -> None:
        self.opened = opened
        self.lost: Exception | None = None
        self.on_notify: Callable[[bytes], None] = _ignore
        self.on_lost: Callable[[Exception], None] = _ignore
        self.on_idle: Callable[[], None] = _nothing
        self._loop = asyncio.get_running_loop()
        self._pgconn = opened.connection.pgconn
        self._pgconn.nonblocking = 1
        self._fd = self._pgconn.socket
        self._prepares = opened.connection.prepare_threshold is not None
        self._prepared: set[bytes] = set()
        self._preparing = False
        self._waiting: deque[tuple[Request, list[bytes | None], Reply]] = deque()
        self._current: tuple[Request, list[bytes | None], Reply] | None = None
        self._result: pq.abc.PGresult | None = None
        self._writing = False
        #: When the request in flight was sent, on the loop's clock.
        self._busy_since = 0.0
        self._loop.add_reader(self._fd, self._readable)

    @property
    def idle(self) -> bool:
        """Nothing is in flight or waiting."""
        return self._current is None and not self._waiting and self.lost is None

    def overdue(self, seconds: float) -> bool:
        """The request in flight has been unanswered for longer than that."""
        if self._current is None or self.lost is not None:
            return False
        return self._loop.time() - self._busy_since > seconds

    def submit(self, request: Request, values: Sequence[Any], reply: Reply) -> None:
        """Send a request when those before it are answered; ``reply`` gets the answer."""
        if self.lost is not None:
            reply([], self.lost)
            return
        queued = (request, request.encode(values), reply)
        if self._current is None and not self._waiting:
            self._start(queued)
        else:
            self._waiting.append(queued)

    async def call(self, request: Request, *values: Any) -> Rows:
        """Send a request and wait for its rows. Raises WireLost or the server's error."""
        future: asyncio.Future[Rows] = self._loop.create_future()

        def reply(rows: Rows, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(rows)
            else:
                future.set_exception(error)

        self.submit(request, values, reply)
        return await future

    def close(self) -> None:
        """Give the connection back; requests that are not answered get WireLost."""
        self._detach(WireLost("the connection was closed"))
        self.opened.release()

    def cut(self) -> None:
        """End the session of a loop that stands still. From any thread."""
        if self.lost is None:
            cut(self.opened.connection)

    def abandon(self, error: Exception) -> None:
        """Stop using the connection as if it had ended by itself; ``on_lost`` is called."""
        if self.lost is None:
            self._detach(error)
            self.on_lost(error)

    def _start(self, queued: tuple[Request, list[bytes | None], Reply]) -> None:
        self._current = queued
        self._busy_since = self._loop.time()
        self._begin(queued[0], queued[1])

    def _begin(self, request: Request, params: list[bytes | None]) -> None:
        try:
            self._send(request, params)
        except psycopg.Error as error:
            self.abandon(WireLost(str(error)))
        except Exception as error:  # noqa: BLE001 - nothing was sent: waiting would never end
            lost = WireLost(f"the driver failed with {type(error).__name__}: {error}")
            lost.__cause__ = error
            self.abandon(lost)

    def _send(self, request: Request, params: list[bytes | None]) -> None:
        pgconn = self._pgconn
        if request.name and self._prepares:
            if request.name in self._prepared:
                pgconn.send_query_prepared(request.name, params, request.formats, 1)
            else:
                self._preparing = True
                pgconn.send_prepare(request.name, request.sql)
        elif params:
            pgconn.send_query_params(request.sql, params, None, request.formats, 1)
        else:
            pgconn.send_query_params(request.sql, None, None, None, 1)
        self._flush()

    def _flush(self) -> None:
        more = self._pgconn.flush()
        if more and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)
        elif not more and self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self.abandon(WireLost(str(error)))

    def _readable(self) -> None:
        turn.begin()
        try:
            self._read()
        finally:
            turn.end()

    def _read(self) -> None:
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if self._writing:
                self._flush()
            self._hear()
            while self._current is not None and not pgconn.is_busy():
                result = pgconn.get_result()
                if result is not None:
                    self._result = result
                else:
                    self._answered()
                # libpq reads no further than a result: what came behind it shows up only now, and
                # the socket will not become readable for it again.
                self._hear()
        except psycopg.Error as error:
            self.abandon(WireLost(str(error)))
            return
        if self._current is None and self.lost is None:
            self.on_idle()

    def _hear(self) -> None:
        while (notification := self._pgconn.notifies()) is not None:
            self.on_notify(notification.extra)

    def _answered(self) -> None:
        assert self._current is not None  # noqa: S101  (called with a request in flight only)
        request, params, reply = self._current
        result, self._result = self._result, None
        error = _error(result)
        if self._preparing and error is None:
            self._preparing = False
            self._prepared.add(request.name)
            self._begin(request, params)
            return
        self._preparing = False
        self._current = None
        if error is not None and _ends_session(error):
            self._current = (request, params, reply)
            self.abandon(WireLost(str(error)))
            return
        reply([] if result is None or error else _rows(result, request.columns), error)
        if self._current is None and self._waiting and self.lost is None:
            self._start(self._waiting.popleft())

    def _detach(self, error: Exception) -> None:
        if self.lost is not None:
            return
        self.lost = error
        with contextlib.suppress(Exception):  # the loop may be closing; nothing else to be done
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        pending = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for _request, _params, reply in pending:
            reply([], error)


def _rows(result: pq.abc.PGresult, columns: tuple[Decoder, ...]) -> Rows:
    rows: Rows = []
    for row in range(result.ntuples):
        values = []
        for column, decode in enumerate(columns):
            value = result.get_value(row, column)
            values.append(None if value is None else decode(bytes(value)))
        rows.append(tuple(values))
    return rows


def _error(result: pq.abc.PGresult | None) -> Exception | None:
    if result is None or result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        return None
    return psycopg.errors.error_from_result(result)


def _ends_session(error: Exception) -> bool:
    state = getattr(error, "sqlstate", None) or ""
    # 57P01-57P05: the server ends the session (shutdown, crash, idle time-out); 08: connection
    # exceptions, as poolers report them; 25006: a standby, where only another server will do.
    return state.startswith(("57P", "08")) or state == "25006"


def _ignore(_argument: Any) -> None:
    pass


def _nothing() -> None:
    pass
