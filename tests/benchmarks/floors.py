"""What a layer on NOTIFY cannot undercut: psycopg and PostgreSQL with nothing in between."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import psycopg
from psycopg import pq

from channels_pg_secrets.engines.serialization import deserialize, serialize
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.identity import Identity
from channels_pg_secrets.layer.item import FrameKey, decode_item, message_item

_PROBE = "probe"
#: A channel's name as long as one of ours.
_CHANNEL = "specific.0123456789abcdef!0123456789ab"


class BareNotify:
    """Sends a text by ``pg_notify`` and waits for it with ``notifies()``; no layer, no encoding.

    One connection sends and one listens, as in any layer. Several senders wait for each other, as
    psycopg has one statement in flight. It stands in for a layer in the workloads that only send
    to and receive from one channel.
    """

    def __init__(self, database: dict[str, Any]) -> None:
        self._params = _params(database)
        self._name = f"floor_{uuid.uuid4().hex}"
        self._sender: psycopg.AsyncConnection[Any] | None = None
        self._notifies: AsyncGenerator[psycopg.Notify, None] | None = None

    async def new_channel(self, prefix: str = "specific") -> str:
        """Listen on a channel, the same each time; one for each process."""
        if self._notifies is None:
            listener = await psycopg.AsyncConnection.connect(**self._params, autocommit=True)
            await listener.execute(f'LISTEN "{self._name}"')
            self._notifies = listener.notifies()
        return self._name

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Notify with the message's padding, which makes up most of its bytes."""
        if self._sender is None:
            self._sender = await psycopg.AsyncConnection.connect(**self._params, autocommit=True)
        padding = message["padding"] or _PROBE
        await self._sender.execute("SELECT pg_notify(%s, %s)", (channel, padding))

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next notification."""
        assert self._notifies is not None
        payload = (await self._notifies.__anext__()).payload
        return {"padding": payload} if payload != _PROBE else {"padding": "", "probe": True}


class BareRow:
    """The same with a row for each message, and libpq driven directly: no layer, no encoding.

    A message that must survive a lost connection is written down somewhere; this is the least that
    takes on PostgreSQL: one prepared statement that inserts it and notifies, no function, no HMAC.
    What several senders send is in flight at once (libpq's pipeline mode), each message in a
    transaction of its own.
    """

    def __init__(self, database: dict[str, Any]) -> None:
        self._params = _params(database)
        self._name = ""
        self._sender: pq.abc.PGconn | None = None
        # Apart from those of whoever else sends to the same channel.
        self._numbers = itertools.count(secrets.randbits(30) << 32)
        #: Of what is in flight, in its order.
        self._sent: deque[asyncio.Future[None]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._payloads: deque[bytes] = deque()
        self._open: list[psycopg.Connection[Any]] = []

    async def new_channel(self, prefix: str = "specific") -> str:
        """Listen on a channel, the same each time; one for each process."""
        if not self._name:
            connection = self._connect()
            self._name = self._listen(connection)
            self._watch(connection.pgconn, self._heard)
        return self._name

    def _listen(self, connection: psycopg.Connection[Any]) -> str:
        name = f"floor_{uuid.uuid4().hex}"
        connection.execute(f'LISTEN "{name}"')
        return name

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Write the message's padding down and notify with it."""
        if self._sender is None:
            self._sender = self._prepared()
        number = str(next(self._numbers)).encode()
        payload = (message["padding"] or _PROBE).encode()
        self._sender.send_query_prepared(b"send", [channel.encode(), number, payload])
        await self._answer()

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next notification."""
        payload = (await self._notification()).decode()
        return {"padding": payload} if payload != _PROBE else {"padding": "", "probe": True}

    async def _answer(self) -> None:
        assert self._sender is not None
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent.append(answer)
        self._sender.pipeline_sync()
        self._sender.flush()
        await answer

    async def _notification(self) -> bytes:
        if not self._payloads:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._payloads.popleft()

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(**self._params, autocommit=True)
        self._open.append(connection)
        return connection

    def _prepared(self) -> pq.abc.PGconn:
        connection = self._connect()
        connection.execute("SELECT pg_advisory_lock(1)")
        connection.execute(
            "CREATE UNLOGGED TABLE IF NOT EXISTS floor_row"
            " (channel text, number bigint, body text, PRIMARY KEY (channel, number))"
        )
        connection.execute("SELECT pg_advisory_unlock(1)")
        connection.pgconn.prepare(
            b"send",
            b"WITH written AS (INSERT INTO floor_row VALUES ($1, $2::bigint, $3))"
            b" SELECT pg_notify($1, $3)",
        )
        connection.pgconn.enter_pipeline_mode()
        self._watch(connection.pgconn, self._answered)
        return connection.pgconn

    @staticmethod
    def _watch(pgconn: pq.abc.PGconn, readable: Any) -> None:
        pgconn.nonblocking = 1
        asyncio.get_running_loop().add_reader(pgconn.socket, readable, pgconn)

    def _answered(self, pgconn: pq.abc.PGconn) -> None:
        pgconn.consume_input()
        while self._sent and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                continue  # That was all of one statement.
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                self._sent.popleft().set_result(None)
                continue
            assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message

    def _heard(self, pgconn: pq.abc.PGconn) -> None:
        pgconn.consume_input()
        while (notification := pgconn.notifies()) is not None:
            self._payloads.append(notification.extra)
        if self._payloads and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class BareFrame(BareRow):
    """The same with what our promises take: our SQL function, HMAC and encoding; still no layer.

    No name is checked, nothing is queued, deduplicated or replayed, and nobody looks after the
    connections. What our layer takes beyond this is Python of its own.
    """

    def __init__(self, database: dict[str, Any]) -> None:
        super().__init__(database)
        self._here = Identity("floor")
        #: By name of the channel here, of whoever listens: the node, its channel and its key.
        self._peers: dict[str, tuple[int, bytes, FrameKey]] = {}

    def _listen(self, connection: psycopg.Connection[Any]) -> str:
        """Listen as a node of the layer does; the name holds all that a sender must know."""
        connection.execute(f'LISTEN "{self._here.notify_channel}"')
        self._register(connection)
        inner, outer = self._here.key.pads()
        return f"{self._here.node}!{self._here.notify_channel}!{inner.hex()}!{outer.hex()}"

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Seal the message and publish it."""
        if self._sender is None:
            self._sender = self._prepared()
        node, name, key = self._peers.get(channel) or self._met(channel)
        number, us = next(self._numbers), self._here
        item = message_item("c", _CHANNEL, serialize(message))
        head = key.seal(us.node, number, item)
        sent = (us.node, us.incarnation, number)
        statement = statements.PUBLISH_FRAME
        values = statement.encode((*sent, node, item, name, head, 60.0, None))
        self._sender.send_query_prepared(statement.name, values, statement.formats, 1)
        await self._answer()

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message, and see that it is authentic."""
        frame = self._here.key.open(await self._notification())
        body = decode_item(frame.items).body
        assert body is not None
        return deserialize(body)

    def _met(self, channel: str) -> tuple[int, bytes, FrameKey]:
        node, name, *pads = channel.split("!")
        self._peers[channel] = int(node), name.encode(), FrameKey(*map(bytes.fromhex, pads))
        return self._peers[channel]

    def _register(self, connection: psycopg.Connection[Any]) -> None:
        statement, us = statements.REGISTER, self._here
        values = statement.encode((us.prefix, us.node, us.notify_channel, *us.key.pads(), 60.0, 1))
        found = connection.pgconn.exec_params(
            statement.sql, values, None, statement.formats, 1
        ).get_value(0, 0)
        assert found is not None
        us.incarnation = statements.int8(found)

    def _prepared(self) -> pq.abc.PGconn:
        connection = self._connect()
        if not self._here.incarnation:
            self._register(connection)
        connection.pgconn.prepare(statements.PUBLISH_FRAME.name, statements.PUBLISH_FRAME.sql)
        connection.pgconn.enter_pipeline_mode()
        self._watch(connection.pgconn, self._answered)
        return connection.pgconn


def _params(database: dict[str, Any]) -> dict[str, Any]:
    return {
        "dbname": database["NAME"],
        "host": database["HOST"],
        "port": database["PORT"],
        "user": database["USER"],
        "password": database["PASSWORD"],
    }
