"""What Channels calls: the channel layer specification on top of a node."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import BaseChannelLayer

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import connections, names, statements
from channels_pg_secrets.layer.cipher import Keys, Sealed, cipher_of
from channels_pg_secrets.layer.item import MAX_INLINE, message_item
from channels_pg_secrets.layer.node import Node
from channels_pg_secrets.layer.options import Options
from channels_pg_secrets.layer.outbox import Outgoing
from channels_pg_secrets.layer.status import stats, status
from channels_pg_secrets.layer.supervisor import STALE

if TYPE_CHECKING:
    from channels_pg_secrets.engines.postgres import PostgresEngine

#: Bytes of one serialised message, at most. The specification asks for 1 MB; beyond this a message
#: would hold up its sender's stream for too long.
MAX_MESSAGE = 16 * 1024 * 1024
#: Seconds that flush waits for the other processes.
FLUSH_TIMEOUT = 5.0

_layers: weakref.WeakSet[PostgresChannelLayer] = weakref.WeakSet()
# What a forked child has inherited and must not touch, nor let be finalised: sockets and a selector
# that belong to its parent.
_inherited: list[Node] = []


class PostgresChannelLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels is untyped
    """A channel layer on PostgreSQL. May be used from any event loop and any thread, and forked.

    ``expiry`` and ``group_expiry`` are in seconds, ``capacity`` in messages for each channel.
    ``send_timeout`` is how many seconds a send waits while the database is away, before it raises
    :class:`~channels_pg_secrets.ChannelLayerUnavailable`; what it sent may arrive all the same.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    def __init__(
        self,
        engine: PostgresEngine,
        *,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Keys = None,
        send_timeout: float = 10.0,
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity, channel_capacity=channel_capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.prefix = prefix
        self.group_expiry = group_expiry
        self.engine = engine
        # Not self.get_capacity: the node would keep the layer alive.
        capacity_of = _capacities(self.channel_capacity, capacity)
        self._options = Options(prefix, expiry, group_expiry, send_timeout, capacity_of)
        self._cipher = cipher_of(symmetric_encryption_keys)
        self._node: Node | None = None
        self._finalizer: weakref.finalize[..., PostgresChannelLayer] | None = None
        self._lock = threading.Lock()
        _layers.add(self)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to a channel.

        Raises:
            TypeError: the name or the message is not valid.
            ChannelFull: the channel is at capacity. Of another process's channel this is known
                within a moment of its filling up: what was sent before is dropped there.
            MessageTooLarge: the message serialises to more than 16 MiB.
            ChannelLayerUnavailable: the database did not take it in ``send_timeout`` seconds.
        """
        target = names.owner(channel)
        body = self._serialize(message)
        node = self._node or self._here()
        if target == node.identity.node:
            if not node.mailboxes.put(channel, body):
                node.health.refused += 1
                raise ChannelFull(channel)
            node.health.received += 1
            return
        if not self._cipher.ready:
            await self._cipher.load()
        out = self._outgoing("c", channel, body)
        if target is not None:
            out.node = target
        else:
            out.channel, out.capacity = channel, self.get_capacity(channel)
        if not await node.published(node.accept(out)):
            node.health.refused += 1
            raise ChannelFull(channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel, through any outage.

        Raises:
            TypeError: the name is not valid.
            ValueError: the channel belongs to another process.
            ChannelLayerUnavailable: the layer was closed meanwhile.
        """
        node = self._node or self._here()
        mailboxes = node.mailboxes
        own = (type(channel) is str and channel in mailboxes) or self._owns(node, channel)
        while True:
            body = mailboxes.take(channel) if own else await self._claimed(node, channel)
            if body is None:
                node.homes.attach(receiving=True)
                waiter = mailboxes.wait(channel)
                try:
                    entry = await waiter
                except BaseException:
                    # Cancelled, or closed as a coroutine: what it was handed must not go with it.
                    mailboxes.leave(channel, waiter)
                    raise
                body = mailboxes.handed(waiter, entry)
                if body is None:
                    continue
            try:
                if type(body) is Sealed:
                    body = await self._unsealed(node, channel, body)
                return self.engine.deserialize(body)
            except Exception as error:  # noqa: BLE001  (of an override; must not end a worker)
                node.inbox.unreadable(channel, error)

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new channel that only this process receives on.

        Raises:
            TypeError: the prefix is not valid.
            ChannelLayerUnavailable: other processes cannot reach this one yet.
        """
        names.check_prefix(prefix)
        node = self._here()
        await node.ready()
        return names.new_channel_name(prefix, node.identity.node)

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group, for ``group_expiry`` seconds from now.

        When it returns, every process sends the group's messages there. A channel of another
        process joins when that process hears of it, which is waited for; where it is silent for
        two seconds, the channel joins as soon as it is back.

        Raises:
            TypeError: a name is not valid.
            ChannelLayerUnavailable: the database did not take it in time.
        """
        names.check_group(group)
        names.check_receivable(channel)
        node = self._here()
        target = names.node_of(channel)
        if target is None or target == node.identity.node:
            future = node.memberships.add(group, channel, local=target is not None)
            if future is not None:
                await node.written(future)
        else:
            await node.change_elsewhere("+", target, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group; nothing happens if it is not in it.

        A channel of this process has left at once; one of another process when that hears of it,
        which is waited for as in :meth:`group_add`.

        Raises:
            TypeError: a name is not valid.
            ChannelLayerUnavailable: the database did not take it in time (never for a channel of
                this process, which has left at once).
        """
        names.check_group(group)
        names.check_receivable(channel)
        node = self._here()
        target = names.node_of(channel)
        if target is None or target == node.identity.node:
            await node.written(node.memberships.discard(group, channel, local=target is not None))
        else:
            await node.change_elsewhere("-", target, group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to every member of a group; members at capacity are passed over.

        Raises:
            TypeError: the name or the message is not valid.
            MessageTooLarge: the message serialises to more than 16 MiB.
            ChannelLayerUnavailable: the database did not take it in time. Members in this very
                process have it nevertheless.
        """
        names.check_group(group)
        body = self._serialize(message)
        node = self._here()
        if not self._cipher.ready:
            await self._cipher.load()
        out = self._outgoing("g", group, body)
        out.group = group
        accepted = node.accept(out)
        node.inbox.deliver_to_members(group, body)
        try:
            await node.published(accepted)
        except ChannelLayerUnavailable as error:
            raise ChannelLayerUnavailable(f"{error}. Members in this process have it.") from error

    async def flush(self) -> None:
        """Drop all messages and groups of this layer in all processes; waits for them up to 5 s."""
        node = self._here()
        flush = secrets.randbits(62)
        epoch = (await node.request(statements.FLUSH, self.prefix, flush))[0][0]
        node.flushed(epoch)
        until = time.monotonic() + FLUSH_TIMEOUT
        while time.monotonic() < until:
            rows = await node.request(statements.UNFLUSHED, self.prefix, epoch, STALE)
            if rows[0][0] == 0:
                return
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Leave: other processes stop sending here, and the connections are closed.

        Messages that wait in this process are dropped, and :meth:`receive` raises
        :class:`~channels_pg_secrets.ChannelLayerUnavailable` to whoever waits for one. The layer
        may be used again afterwards, as a new node; channel names handed out before are then no
        longer its own.
        """
        with self._lock:
            node, self._node = self._node, None
        if node is not None:
            await node.leave()
            node.close()
            if self._finalizer is not None:
                self._finalizer.detach()

    def status(self) -> dict[str, Any]:
        """Return what this process tells others of itself; see :meth:`processes`. Any thread."""
        return status(self._here())

    async def processes(self, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Ask all other processes of this layer how they are doing; within ``timeout`` seconds.

        Each answer is a dict that JSON takes and that holds no secret; its keys are in the
        reference, "Commands". Of a process that is silent it has ``node`` and ``silent``.

        Raises:
            ChannelLayerUnavailable: the database did not take the question in time.
        """
        return await self._here().inquiries.ask("status", timeout)

    async def reload(self, timeout: float = 15.0) -> list[dict[str, Any]]:
        """Have this and all other processes of the layer fetch their credentials now.

        Each then moves to new connections if what came back differs; without ``CREDENTIALS`` in
        any case, since only new connections show what the engine's backend says now. Returns when
        all have fetched, or after ``timeout`` seconds: for each process, this one first, a dict
        with ``node``, ``generation``, ``changed`` and ``error``, or with ``node`` and ``silent``.

        Raises:
            ChannelLayerUnavailable: the database did not take the question in time.
        """
        inquiries = self._here().inquiries
        own, others = await asyncio.gather(
            asyncio.to_thread(inquiries.refresh), inquiries.ask("reload", timeout)
        )
        return [own, *others]

    async def reconnect(self, timeout: float = 30.0) -> None:
        """Move this process to new connections now, as a rotation does, without a gap.

        Raises:
            ChannelLayerUnavailable: not within ``timeout`` seconds; the old ones are still used. Or
                the layer was closed meanwhile.
        """
        await connections.reconnected(self._here(), timeout)

    def stats(self) -> dict[str, Any]:
        """Return what this process has counted, and what is connected; connects nothing itself.

        The keys are in the reference, "Health". The values are strings, integers, a list of
        strings and ``None``, so that JSON takes them. May be called from any thread.
        """
        return stats(self._here())

    def _here(self) -> Node:
        node = self._node
        if node is None:
            with self._lock:
                node = self._node
                if node is None:
                    node = self._node = Node(self.engine, self._options, self._cipher)
                    self._finalizer = weakref.finalize(self, node.homes.stop_soon)
        return node

    @staticmethod
    def _owns(node: Node, channel: str) -> bool:
        """The channel is this process's own; False for a normal channel."""
        owner = names.node_of(names.check_receivable(channel))
        if owner is not None and owner != node.identity.node:
            raise ValueError(
                f"Channel {channel!r} belongs to another process (or to this one before a fork);"
                " only that process can receive from it"
            )
        return owner is not None

    @staticmethod
    async def _claimed(node: Node, channel: str) -> bytes:
        node.attach(receiving=True)
        return await node.inbox.claimed(channel)

    async def _unsealed(self, node: Node, channel: str, message: Sealed) -> bytes:
        try:
            return await node.inbox.unsealed(message)
        except asyncio.CancelledError:
            # Whoever receives next is to have it, in its turn.
            node.mailboxes.put_back(channel, message, message.expires)
            raise

    def _serialize(self, message: dict[str, Any]) -> bytes:
        body = self.engine.serialize(message)
        if len(body) > MAX_MESSAGE:
            raise MessageTooLarge(
                f"The message takes {len(body)} bytes; the most this layer carries is {MAX_MESSAGE}"
            )
        return body

    def _outgoing(self, kind: str, name: str, body: bytes) -> Outgoing:
        data = self._cipher.encrypt(body)
        if len(data) <= MAX_INLINE:
            return Outgoing(message_item(kind, name, data))
        return Outgoing(message_item(kind, name, None), blob=data)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        if self._node is not None:
            _inherited.append(self._node)
            self._node = None
        if self._finalizer is not None:
            self._finalizer.detach()


def _capacities(
    patterns: Sequence[tuple[re.Pattern[str], int]], default: int
) -> Callable[[str], int]:
    def capacity_of(channel: str) -> int:
        for pattern, capacity in patterns:
            if pattern.match(channel):
                return capacity
        return default

    return capacity_of


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        layer._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
