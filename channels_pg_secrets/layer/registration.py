"""Enters a node in the tables: at first, on each new connection, and when they lost it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.publisher import MembershipJob, Publisher
from channels_pg_secrets.layer.wire import Wire, WireLost

if TYPE_CHECKING:
    from channels_pg_secrets.layer.listener import Listener
    from channels_pg_secrets.layer.node import Node
    from channels_pg_secrets.layer.tenure import Tenure

logger = logging.getLogger("channels_pg_secrets.layer")


class Registration:
    """Belongs to the home loop. ``on_missed`` is called when what was sent is to be read again."""

    def __init__(
        self,
        node: Node,
        publisher: Publisher,
        listener: Listener,
        tenure: Tenure,
        on_missed: Callable[[], None],
    ) -> None:
        #: The tables hold the node, and its memberships, as far as is known.
        self.entered = asyncio.Event()
        self._node = node
        self._publisher = publisher
        self._listener = listener
        self._tenure = tenure
        self._on_missed = on_missed
        self._again: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """The node is just being entered again."""
        return self._again is not None

    async def rehearse(self, wire: Wire) -> None:
        """Have a new session read its catalogs and plan while the old one still publishes.

        The first call of each function costs it some milliseconds, in which messages would wait.
        """
        node, identity = self._node, self._node.identity
        incarnation, channel = identity.incarnation, identity.notify_channel.encode()
        await wire.call(statements.BEGIN)
        await wire.call(statements.BRIEFLY)
        await wire.call(statements.REGISTER, *node.registration())
        # Not as the node: its own lock is in use.
        nobody = -identity.node
        frame = (nobody, incarnation, 0, identity.node, b"", channel, b"", 0.0, None)
        await wire.call(statements.PUBLISH_FRAME, *frame)
        group = (identity.prefix, nobody, incarnation, 0, "", b"", 0.0, 0.0, None)
        await wire.call(statements.PUBLISH_GROUP, *group)
        await wire.call(statements.ROLLBACK)

    async def enter(self, wire: Wire) -> None:
        """Enter the node table, or find our entry; then make good whatever was lost."""
        self._listener.keep()
        try:
            if not await self._register(wire):
                return
            if not self._node.identity.caught_up:
                # What was sent before is to be read again, if it is still there.
                self.entered.clear()
                self._on_missed()
        finally:
            self._listener.resume()
        identity = self._node.identity
        if not identity.caught_up:
            await self._write_memberships(wire)
            await wire.call(statements.BEGIN_READ_COMMITTED)
            await wire.call(statements.BRIEFLY)
            await wire.call(statements.CATCH_UP, identity.prefix, identity.node)
            await wire.call(statements.COMMIT)
            identity.caught_up = True
        self.entered.set()

    async def _register(self, wire: Wire) -> bool:
        """Do so; False where another home has taken over."""
        node, identity = self._node, self._node.identity
        rows = await wire.call(statements.REGISTER, *node.registration())
        incarnation, entry, epoch = rows[0]
        known = entry == identity.entry
        entered = identity.incarnation != 0
        emptied = entered and identity.incarnation != incarnation
        with self._tenure.lock:
            if not self._tenure.current:
                return False
            node.registered(incarnation, known=known, epoch=epoch, emptied=emptied)
            identity.entry = entry
            # Not undone by a connection that ends here: the next one is known, and has to go on.
            identity.caught_up = identity.caught_up and (known or not entered)
        return True

    def again(self) -> None:
        """The tables do not know this node: it was silent for too long, or they were emptied."""
        wire = self._publisher.wire
        if self._again is not None or wire is None:
            return
        self._publisher.hold()
        if self._node.leaving:
            return  # it has left already, or its row went with the tables

        async def enter() -> None:
            try:
                await self.enter(wire)
                self._publisher.release()
            except Exception as error:
                # The publisher is held until this is done: another connection has to try.
                if not isinstance(error, psycopg.Error):
                    logger.exception("The node could not be entered again")
                wire.abandon(WireLost(str(error)))
            finally:
                self._again = None

        task = asyncio.get_running_loop().create_task(enter())
        self._again = None if task.done() else task  # done: an eager task factory

    def cancel(self) -> None:
        """Stop entering again, if that is under way."""
        if self._again is not None:
            self._again.cancel()

    async def _write_memberships(self, wire: Wire) -> None:
        """Write the groups of a node that the tables had lost, before anybody listens for it."""
        job = MembershipJob(self._node.memberships)
        while self._tenure.current and job.waiting:
            call = job.next_call(self._node.identity)
            if call is None:
                return
            try:
                rows = await wire.call(call.statement, *call.values)
            except BaseException:
                # A cancellation included: the next home has to write them again.
                call.in_doubt()
                raise
            if not call.done(rows):
                call.in_doubt()
                raise WireLost("the tables were emptied again")
