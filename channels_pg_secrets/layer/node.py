"""One node per process and layer: what it holds, and what outlives its connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Job
from channels_pg_secrets.layer.health import Health
from channels_pg_secrets.layer.home import STUCK, Home
from channels_pg_secrets.layer.homes import Homes, layer_closed
from channels_pg_secrets.layer.identity import Identity
from channels_pg_secrets.layer.inbox import Inbox
from channels_pg_secrets.layer.inquiry import Inquiries
from channels_pg_secrets.layer.item import acknowledgement_item
from channels_pg_secrets.layer.listener import Watermarks
from channels_pg_secrets.layer.outbox import Outbox, Outgoing, membership
from channels_pg_secrets.layer.peers import Peers
from channels_pg_secrets.layer.publisher import MembershipJob, OutboxJob
from channels_pg_secrets.layer.requests import Requests
from channels_pg_secrets.layer.trouble import Trouble
from channels_pg_secrets.layer.waiter import Waiter
from channels_pg_secrets.layer.wakeup import settle
from channels_pg_secrets.timeouts import timeout

if TYPE_CHECKING:
    from channels_pg_secrets.engines.postgres import PostgresEngine
    from channels_pg_secrets.layer.cipher import Cipher
    from channels_pg_secrets.layer.options import Options
    from channels_pg_secrets.layer.wire import Rows

logger = logging.getLogger("channels_pg_secrets.layer")

#: Seconds to wait for another process to join or leave with a channel of its own.
OWNER_TIMEOUT = 2.0
#: Seconds that leaving may take; whoever does not leave is swept away later.
LEAVE_TIMEOUT = 1.0


class Node:
    """Everything of one layer in one process. Safe from any thread and any event loop.

    Messages, memberships and numbers live here; connections live on the home loop and may come and
    go without them.
    """

    def __init__(self, engine: PostgresEngine, options: Options, cipher: Cipher) -> None:
        self.engine = engine
        self.options = options
        self.cipher = cipher
        self.identity = Identity(options.prefix)
        self.health = Health(type(engine), options.prefix, self.identity.name)
        self.created = time.monotonic()
        self.inquiries = Inquiries(self)
        self.inbox = Inbox(
            engine,
            options,
            cipher,
            self.health,
            self.kick,
            self.flushed,
            self._acknowledge,
            self.inquiries,
        )
        self.mailboxes = self.inbox.mailboxes
        self.memberships = self.inbox.memberships
        self.normal_channels = self.inbox.normal_channels
        #: It is about to leave the tables, and must not enter them again.
        self.leaving = False
        self.outbox = Outbox(options.row_expiry / 2)
        self.peers = Peers()
        self.requests = Requests()
        # Rows live for up to three slices of half the expiry each.
        self.marks = Watermarks(keep_ids=2 * options.row_expiry)
        times = (options.row_expiry, options.expiry, self.memberships.row_ttl)
        self.jobs: list[Job] = [
            MembershipJob(self.memberships),
            OutboxJob(self.outbox, self.peers, self.health, times),
            self.peers,
            self.normal_channels,
            self.mailboxes.full,
            self.requests,
        ]
        self.homes = Homes(self)
        self._lock = self.homes.succession.lock
        self.trouble = Trouble(options.send_timeout)
        #: Those who wait for the first registration, with the time since when.
        self._unready: deque[tuple[float, asyncio.Future[None]]] = deque()

    # Used by the layer --------------------------------------------------------------------

    def accept(self, out: Outgoing) -> asyncio.Future[bool]:
        """Queue one message for publication; pass the future to :meth:`published`.

        Raises:
            ChannelLayerUnavailable: the queue is full, or the layer cannot work at all.
        """
        home = self.attach()
        self._fail_if_permanent()
        future: asyncio.Future[bool] = Waiter()
        out.future = future
        self.outbox.add(out)
        self.health.sent += 1
        home.kick()
        return future

    async def published(self, future: asyncio.Future[bool]) -> bool:
        """Wait until a message is published; False when its channel is at capacity.

        Raises:
            ChannelLayerUnavailable: not within ``send_timeout``; it may arrive all the same.
        """
        home = self.homes.current
        if home is not None and home.loop is future.get_loop():
            return await future  # the supervisor on this loop watches the time
        return bool(await self._watched(future))

    async def change_elsewhere(self, kind: str, owner: int, group: str, channel: str) -> None:
        """Have another process join a channel of its own (``+``), or take it out (``-``).

        Returns when it has done so: what it decides about the channel afterwards comes later.
        Where its owner is silent for OWNER_TIMEOUT, it is done as soon as that is back.

        Raises:
            ChannelLayerUnavailable: the database did not take it in ``send_timeout``.
        """
        expected = self.inbox.acknowledgements
        token, done = expected.expect()
        try:
            out = membership(kind, owner, group, channel, token)
            if await self.published(self.accept(out)):
                with contextlib.suppress(asyncio.TimeoutError):
                    async with timeout(OWNER_TIMEOUT):
                        await done
        finally:
            expected.forget(token)

    async def written(self, future: asyncio.Future[None] | None) -> None:
        """Write the membership changes there are, and wait for one of them."""
        home = self.attach()
        home.kick()
        if future is not None:
            self._fail_if_permanent()
            await self._watched(future)

    async def ready(self) -> None:
        """Wait until other processes can reach this one.

        Raises:
            ChannelLayerUnavailable: not within ``send_timeout``.
        """
        self.attach(receiving=True)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self.known:
                return
            self._fail_if_permanent()
            self._unready.append((time.monotonic(), future))
        await self._watched(future)

    async def request(self, statement: statements.Statement, *values: Any) -> Rows:
        """Call a function that may be called twice, and return its rows."""
        self.attach()
        self._fail_if_permanent()
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self.requests.add(statement, values, future)
        self.kick()
        rows: Rows = await self._watched(future)
        return rows

    @property
    def known(self) -> bool:
        """The node was entered into the tables: others can reach it."""
        return self.identity.incarnation != 0

    def attach(self, *, receiving: bool = False) -> Home:
        """Make sure that there is a home, and return it. Raises ChannelLayerUnavailable."""
        return self.homes.attach(receiving=receiving)

    def kick(self) -> None:
        """Publish what there is, if there is a home to do it."""
        self.homes.kick()

    def close(self) -> None:
        """End the home for good; whoever still waits for anything is told so."""
        self.homes.close()
        self.health.sweep(self.mailboxes.full.lately())
        error = layer_closed()
        self._fail_late(time.monotonic(), error)
        self.mailboxes.close(error)
        self.normal_channels.close(error)

    def post(self, out: Outgoing) -> None:
        """Send what nobody waits for; it is lost where the queue is full."""
        with contextlib.suppress(ChannelLayerUnavailable):
            self.outbox.add(out)
        self.kick()

    def reconnect(self) -> None:
        """Move to new connections soon, as in a rotation. Any thread; nothing if there are none."""
        home = self.homes.current
        if home is not None and home.supervisor is not None:
            home.run_soon(home.supervisor.replace)

    async def leave(self) -> None:
        """Take this node out of the tables, if they can be reached at once."""
        home = self.homes.current
        if self.known and home is not None:
            # What was claimed for a receiver that is gone must be given back before this node is.
            # And a connection that takes over would enter it again.
            self.leaving = True
            self.normal_channels.leave()
            until = time.monotonic() + LEAVE_TIMEOUT
            while (self.normal_channels.unsettled or home.moving) and time.monotonic() < until:
                self.kick()
                await asyncio.sleep(0.005)
            with contextlib.suppress(ChannelLayerUnavailable, asyncio.TimeoutError):
                async with timeout(LEAVE_TIMEOUT):
                    await self.request(statements.DEREGISTER, self.identity.node)

    def flushed(self, epoch: int) -> None:
        """Forget all messages and memberships, if the layer was flushed since the last time."""
        if epoch <= self.identity.epoch:
            return
        self.identity.epoch = epoch
        self.mailboxes.clear()
        self.memberships.clear()
        values = (self.identity.node, epoch)
        self.requests.add(statements.FLUSHED, values, None)
        self.kick()

    # Used by the supervisor ---------------------------------------------------------------

    def registration(self) -> tuple[Any, ...]:
        """The values of REGISTER."""
        identity = self.identity
        head = (identity.prefix, identity.node, identity.notify_channel)
        return (*head, *identity.key.pads(), self.options.row_expiry / 2, secrets.randbits(62))

    def registered(self, incarnation: int, *, known: bool, epoch: int, emptied: bool) -> None:
        """The node is in the table; make good what the tables have lost."""
        first = not self.known
        self.identity.incarnation = incarnation
        self.peers.forget_absent()
        if not known and not first:
            self.memberships.forgotten()
            self.normal_channels.forgotten()
            self.mailboxes.full.forgotten()
        if emptied:
            logger.warning("The layer's tables were emptied; registered and sent again")
            self.outbox.resend()
            self.identity.epoch = epoch
        if first:
            self.identity.epoch = epoch
        self.flushed(epoch)
        self.normal_channels.reconnected()
        with self._lock:
            self.trouble.permanent = False
            ready = [future for _, future in self._unready]
            self._unready.clear()
        settle(ready, None)

    def connected(self, link: str, *, generation: int, moved: bool) -> None:
        """A connection is up."""
        self.health.connected(link, generation, moved=moved)
        if self.trouble.end() or not moved:
            logger.info("The %s is connected (credentials generation %d)", link, generation)
        else:
            logger.info("The %s moved to credentials generation %d", link, generation)

    def disconnected(self, link: str, error: Exception) -> None:
        """A connection ended by itself."""
        self.health.disconnected(link, error)
        logger.warning("The %s lost its connection: %s", link, error)

    def unreachable(self, link: str, error: Exception, *, permanent: bool) -> None:
        """A connection could not be had; said once for each reason."""
        if self.trouble.begin(error, permanent=permanent):
            logger.warning("The %s cannot connect: %s", link, error)
        # Where it has worked before, what looks like a missing grant may be a role that was just
        # dropped, and the next login is on its way: those who wait go on waiting.
        if self.trouble.permanent and not self.known:
            self._fail_late(time.monotonic(), self.trouble.error())

    def expire_waiters(self) -> None:
        """Tell those who have waited for longer than ``send_timeout``."""
        waiting = self.outbox.waiting or self.memberships.dirty or self.requests.waiting
        if waiting or self._unready:
            late = time.monotonic() - self.options.send_timeout
            self._fail_late(late, self.trouble.error())

    def sweep(self) -> None:
        """Drop what has expired."""
        self.inbox.sweep()
        self.marks.sweep()
        self.homes.sweep()

    def recover(self) -> None:
        """The home before is out of office: take up what it had in flight."""
        self.outbox.recover()
        self.memberships.recover()
        self.normal_channels.recover()
        self.mailboxes.full.recover()
        self.requests.recover()

    def receives_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Somebody waits for a message in this loop."""
        if self.mailboxes.awaited_in(loop):
            return True
        return any(waiter.get_loop() is loop for waiter in self.normal_channels.waiters())

    def somebody_waits(self) -> bool:
        """Somebody waits for anything, in a loop that is not closed."""
        waiters: list[asyncio.Future[Any]] = [
            *self.mailboxes.waiters(),
            *self.normal_channels.waiters(),
            *self.outbox.futures(),
            *self.memberships.waiters(),
            *(future for _, future in self._unready if not future.done()),
        ]
        return any(not waiter.get_loop().is_closed() for waiter in waiters)

    # How ----------------------------------------------------------------------------------

    def _acknowledge(self, node: int, token: str) -> None:
        # Where there is no room for it, whoever waits goes on after OWNER_TIMEOUT.
        self.post(Outgoing(acknowledgement_item(token), node=node))

    async def _watched(self, future: asyncio.Future[Any]) -> Any:
        """Wait for what the home loop is to do, and find another home if it does not."""
        loop = asyncio.get_running_loop()
        until = time.monotonic() + self.options.send_timeout + 5 * STUCK
        looks: list[asyncio.TimerHandle] = []

        def look() -> None:
            if future.done():
                return
            if self.homes.closed:
                future.set_exception(layer_closed())
            elif time.monotonic() > until:
                future.set_exception(self.trouble.error())
            else:
                self.attach().kick()
                looks[:] = [loop.call_later(STUCK, look)]

        looks.append(loop.call_later(STUCK, look))
        try:
            return await future
        finally:
            looks[0].cancel()

    def _fail_if_permanent(self) -> None:
        if self.trouble.permanent and not self.known:
            raise self.trouble.error()

    def _fail_late(self, before: float, error: ChannelLayerUnavailable) -> None:
        self.outbox.fail_late(before, error)
        self.memberships.fail_waiters(error, before)
        self.requests.fail_late(before, error)
        late = []
        with self._lock:
            while self._unready and self._unready[0][0] <= before:
                late.append(self._unready.popleft()[1])
        settle(late, error)
