"""Keeps a node's two connections: opens, replaces and watches them.

One rule for everything: a link whose connection is missing, ended, of an old generation or too old
is opened anew, and the new connection takes over from the old one before that is closed. So a
rotation, a reconnect and a new home loop are one procedure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from channels_pg_secrets.errors import LayerMisconfigured
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.link import LAST_DELAY, Link, backoff
from channels_pg_secrets.layer.listener import Listener
from channels_pg_secrets.layer.publisher import TRANSIENT, Publisher, not_granted, not_installed
from channels_pg_secrets.layer.registration import Registration
from channels_pg_secrets.layer.wire import Rows, Wire, WireLost
from channels_pg_secrets.timeouts import timeout
from pg_secrets.connect import LoginRejected
from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled, CredentialsError

if TYPE_CHECKING:
    from channels_pg_secrets.engines.connection import OpenedConnection
    from channels_pg_secrets.layer.node import Node
    from channels_pg_secrets.layer.tenure import Tenure

logger = logging.getLogger("channels_pg_secrets.layer")

#: Seconds between looks at the connections when nothing happens.
TICK = 0.25
#: Seconds between heartbeats, and after how many a node counts as gone (design: SIGSTOP for half a
#: minute must not cost a process its memberships).
HEARTBEAT = 5.0
STALE = 45.0
#: Seconds a request may go unanswered before the connection is given up.
ANSWER_TIMEOUT = 10.0
#: Errors that waiting does not mend: whoever waits is told at once.
_PERMANENT = (LayerMisconfigured, AdapterMisconfigured, AdapterNotInstalled)


class Supervisor:
    """Runs on the home loop for as long as that is home."""

    def __init__(self, node: Node, tenure: Tenure) -> None:
        self.publisher = Publisher(node.identity, node.jobs, tenure)
        self.listener = Listener(node.identity, node.marks, node.inbox, tenure)
        self.ticked = time.monotonic()
        #: The connections were given back.
        self.released = False
        self._node = node
        self._engine = node.engine
        self._tenure = tenure
        self._publishing = Link("publisher")
        self._listening = Link("listener")
        self._links = (self._publishing, self._listening)
        self._wake = asyncio.Event()
        self._next_heartbeat = 0.0
        #: Young sessions in a row that had no rights.
        self._refusals = 0
        self._registration = Registration(node, self.publisher, self.listener, tenure, self._missed)
        self._loop = asyncio.get_running_loop()
        self.publisher.on_unknown = self._registration.again
        self.publisher.on_rights_lost = self._rights_lost
        self.listener.on_refused = self._unread
        self.listener.on_overflow = self._reread

    @property
    def connected(self) -> list[str]:
        """The links that are up."""
        return [link.name for link in self._links if link.up]

    def opened(self) -> dict[str, OpenedConnection]:
        """The connections that are up, by link. Any thread."""
        return {link.name: link.wire.opened for link in self._links if link.wire and link.up}

    @property
    def replacing(self) -> bool:
        """A connection that is up is to be replaced: whether another can be had is not known."""
        generation = self._generation
        return any(
            link.up and (link.task is not None or link.wants(generation)) for link in self._links
        )

    @property
    def moving(self) -> bool:
        """A connection is being opened, or about to take over, where one is up."""
        return any(link.up and link.task is not None for link in self._links)

    def replace(self) -> None:
        """Open new connections, which take over from those that are up or are being opened."""
        for link in self._links:
            link.replace = link.up or link.task is not None
        self._wake.set()

    async def run(self) -> None:
        """Keep the connections until cancelled, or until another home has taken over."""
        source = self._engine.source
        unsubscribe = source.subscribe(lambda _event: self.wake()) if source else None
        try:
            while self._tenure.current:
                self._look()
                await self._pause()
        finally:
            if unsubscribe is not None:
                unsubscribe()
            self._close()

    def wake(self) -> None:
        """Look at the connections soon. Any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            return  # the loop is closed; the next use of the layer finds another home

    async def _pause(self) -> None:
        # Not wait_for: before Python 3.12 it swallows a cancellation that meets a result, and
        # asyncio.run would then wait for this task for ever.
        timer = self._loop.call_later(TICK, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    def _look(self) -> None:
        self.ticked = now = time.monotonic()
        generation = self._generation
        for link in self._links:
            if link.wire is not None and link.wire.overdue(ANSWER_TIMEOUT):
                link.wire.abandon(WireLost(f"no answer within {ANSWER_TIMEOUT:g} seconds"))
            wanted = link.task is None and link.wants(generation) and link.due(generation)
            if wanted and not self._can_wait(link):
                link.task = self._loop.create_task(self._open(link))
                link.task.add_done_callback(self._opened(link))
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT
            self._heartbeat()
        self._node.expire_waiters()
        self._node.health.send()

    @property
    def _generation(self) -> int | None:
        """The credentials' generation; None where they do not change."""
        source = self._engine.source
        return source.generation if source is not None else None

    def _can_wait(self, link: Link) -> bool:
        """One moves after the other: two logins at once would hold up twice the messages.

        And none when the node leaves.
        """
        return link.up and (
            self._node.leaving or any(other.task is not None for other in self._links)
        )

    def _opened(self, link: Link) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            link.task = None
            if not task.cancelled():
                self._wake.set()

        return done

    async def _open(self, link: Link) -> None:
        was_up = link.up
        link.begin()
        try:
            opened = await self._engine.open_connection(listener=link is self._listening)
            if not self._tenure.current:
                # Cancelled, and the driver swallowed it: before Python 3.12 its wait_for may.
                opened.release()
                return
            # Now, as the listener waits for the publisher in what follows.
            for other in self._links:
                other.admitted()
            self._wake.set()
            await self._take(link, opened)
        except Exception as error:  # noqa: BLE001  (whatever an engine raises, try again later)
            self._failed(link, error)
            return
        lease = opened.credentials.lease if opened.credentials else None
        link.succeeded(lease.duration if lease else None)
        self._node.connected(link.name, generation=opened.generation, moved=was_up)

    async def _take(self, link: Link, opened: OpenedConnection) -> None:
        """Put a connection that was just opened to use; if that fails, give it back."""
        wire: Wire | None = None
        try:
            wire = Wire(opened)
            wire.on_lost = self._lost(link, wire)
            async with timeout(ANSWER_TIMEOUT):
                await self._hand_over(link, wire)
        except BaseException as error:
            # Whatever it was, a cancellation included: nobody else knows this connection.
            if wire is not None:
                wire.close()
            opened.release()
            if isinstance(error, asyncio.TimeoutError):
                text = f"no hand-over within {ANSWER_TIMEOUT:g} seconds"
                raise psycopg.OperationalError(text) from None
            raise

    async def _hand_over(self, link: Link, wire: Wire) -> None:
        await wire.call(statements.PROBE)
        if link is self._publishing:
            if link.up:
                await self._registration.rehearse(wire)
            await self._take_over_publisher(wire)
        else:
            if link.up:
                await self.listener.rehearse(wire)
            await self._take_over_listener(wire)

    async def _take_over_listener(self, wire: Wire) -> None:
        link = self._listening
        old = self.listener.wire
        # What came while the tables did not know us lies there without an announcement: whoever
        # listened before it was all there would take what comes later for everything.
        await self._registration.entered.wait()
        try:
            await self.listener.take_over(wire)
        finally:
            if self.listener.wire is wire:
                link.wire = wire
                # Announcements are not kept: what came before LISTEN is to be asked for.
                self._next_heartbeat = 0.0
                if old is not None:
                    old.close()

    async def _take_over_publisher(self, wire: Wire) -> None:
        self.publisher.hold()
        try:
            await self._between_statements()
            await self._registration.enter(wire)
            old = self.publisher.use(wire)
            self._publishing.wire = wire
            if old is not None:
                old.close()
        finally:
            if self.publisher.wire is not None:
                self.publisher.release()

    async def _between_statements(self) -> None:
        """Wait for the answer to the statement in flight; what is late counts as in doubt."""
        try:
            async with timeout(ANSWER_TIMEOUT / 2):
                await self.publisher.settled.wait()
        except asyncio.TimeoutError:
            if self.publisher.wire is not None:
                self.publisher.wire.abandon(WireLost("no answer before the hand-over"))

    def _heartbeat(self) -> None:
        self._node.sweep()
        if (
            self._publishing.wire is not None
            and self._publishing.up
            and not self._registration.under_way
        ):
            values = (self._node.identity.node, STALE)
            self._publishing.wire.submit(statements.HEARTBEAT, values, self._heard)
        if self._listening.up and self._listening.wire is not None:
            # Sessions outlive their role, and LISTEN goes on as if nothing had happened.
            self._listening.wire.submit(statements.PROBE, (), self._probed)

    def _heard(self, rows: Rows, error: Exception | None) -> None:
        if error is not None:
            self._refused(error)
        elif not rows:
            self._registration.again()
        else:
            incarnation, epoch = rows[0]
            if incarnation != self._node.identity.incarnation:
                self._registration.again()
            else:
                self._node.flushed(epoch)

    def _probed(self, rows: Rows, error: Exception | None) -> None:
        if error is not None:
            self._refused(error)

    def _refused(self, error: Exception) -> None:
        state = getattr(error, "sqlstate", None) or ""
        # A deadlock or a time-out of the sweep says nothing about the session.
        if not isinstance(error, WireLost) and not state.startswith(TRANSIENT):
            self._rights_lost(error)

    def _unread(self, error: Exception) -> None:
        """A large message was refused: the next session reads it again, since no mark has moved."""
        state = getattr(error, "sqlstate", None) or ""
        if not state.startswith(TRANSIENT):
            self._rights_lost(error)
        elif self._listening.wire is not None:
            self._listening.wait(LAST_DELAY)
            self._listening.wire.abandon(WireLost(str(error)))

    def _missed(self) -> None:
        """The tables had lost this node: what was sent meanwhile is read by a new connection."""
        self.listener.pause()
        self._listening.replace = self._listening.up

    def _reread(self) -> None:
        """Frames were dropped for want of room; another connection reads their rows."""
        self._listening.replace = True
        self._wake.set()

    def _rights_lost(self, error: Exception) -> None:
        """The role was dropped or lost its rights: the store may already have another."""
        state = getattr(error, "sqlstate", None)
        source = self._engine.source
        now = time.monotonic()
        opened = [link.wire.opened.opened_at for link in self._links if link.wire and link.up]
        # A grant that is missing is missing on the next session too.
        young = any(now - at < HEARTBEAT for at in opened)
        self._refusals = self._refusals + 1 if young else 0
        pause = backoff(self._refusals) if young else 0.0
        for link in self._links:
            if link.wire is not None and link.up:
                link.wait(pause)
                if source is not None and link.wire.opened.credentials is not None:
                    source.rejected(link.wire.opened.credentials, state)
                link.wire.abandon(WireLost(str(error)))

    def _lost(self, link: Link, wire: Wire) -> Callable[[Exception], None]:
        def lost(error: Exception) -> None:
            wire.opened.release()
            if link.wire is wire:
                self._registration.entered.clear()
                if link is self._listening:
                    # A crash behind a pooler ends this connection alone: are we known yet?
                    self._registration.again()
                self._node.disconnected(link.name, error)
                self._wake.set()

        return lost

    def _failed(self, link: Link, error: Exception) -> None:
        if isinstance(error, LoginRejected) and error.retry_after:
            link.failed(at_least=error.retry_after, refused=self._generation)
        else:
            link.failed()
        reason = _explained(error)
        self._node.unreachable(link.name, reason, permanent=isinstance(reason, _PERMANENT))
        expected = (psycopg.Error, CredentialsError, OSError, *_PERMANENT)
        if link.failures == 1 and not isinstance(error, expected):
            logger.error("The %s could not be connected", link.name, exc_info=error)

    def cut(self) -> None:
        """End the sessions of a loop that stands still, as the network might. Any thread."""
        for link in self._links:
            if link.wire is not None:
                link.wire.cut()

    def release(self) -> None:
        """Give the connections back at once."""
        self.released = True
        for link in self._links:
            if link.wire is not None:
                link.wire.on_lost = _ignore
                link.wire.abandon(WireLost("the home loop has ended"))
                link.wire.opened.release()

    def _close(self) -> None:
        for link in self._links:
            if link.task is not None:
                link.task.cancel()
        self.release()
        self._registration.cancel()


def _explained(error: Exception) -> Exception:
    state = getattr(error, "sqlstate", None) or ""
    if state in ("42883", "42P01", "3F000"):
        return not_installed(error)
    if state == "42501":
        return not_granted(error)
    return error


def _ignore(_error: Exception) -> None:
    pass
