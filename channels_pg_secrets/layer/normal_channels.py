"""Receiving from normal channels: work that waits in the database for any process.

A message is claimed when a receiver is ready for it, deleted when it was handed over, and given
back when the receiver is gone by then. ``DELETE … RETURNING`` alone would lose a message whose
reply is lost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Call
from channels_pg_secrets.layer.waiter import Waiter
from channels_pg_secrets.layer.wakeup import Wakeups, settle

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.wire import Rows

logger = logging.getLogger("channels_pg_secrets.layer")
T = TypeVar("T")

#: Messages settled by one statement.
_CHUNK = 500
#: Messages claimed by one: for each it looks again at those it took before, so twice as many take
#: four times as long.
_CLAIMS = 50
#: Settled claims remembered: their delete is not flushed at once, and a crash may undo it.
_REMEMBERED = 20_000


class Claimed(NamedTuple):
    """One message that this process holds: its row, the claim that took it, and its content."""

    row: int
    claim: int
    item: bytes
    blob: bytes | None

    @property
    def key(self) -> tuple[int, int]:
        """What names the claimed row: numbers alone could be reused after a restore."""
        return self.row, self.claim


@dataclass(slots=True)
class Reader:
    """The receivers of one normal channel in this process."""

    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    #: Entered in the database, so that senders announce new work.
    registered: bool = False
    #: There may be work: just registered, announced, or not looked for a while.
    hopeful: bool = True
    busy: bool = False


@dataclass(slots=True)
class Settlement:
    """What one statement tells the database: claims handed over, given back; channels not read."""

    done: list[tuple[int, int]] = field(default_factory=list)
    back: list[tuple[int, int]] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.done or self.back or self.idle)

    def take_done(self) -> Settlement:
        """Take out what was handed over, as much as a claim carries."""
        taken = Settlement(self.done[:_CHUNK])
        del self.done[:_CHUNK]
        return taken

    def take(self) -> Settlement:
        """Take out as much as one statement carries."""
        taken = Settlement(self.done[:_CHUNK], self.back[:_CHUNK], self.idle[:_CHUNK])
        del self.done[:_CHUNK], self.back[:_CHUNK], self.idle[:_CHUNK]
        return taken

    def put_back(self, taken: Settlement) -> None:
        """It may not have been carried out: before everything else, again."""
        self.done[:0], self.back[:0], self.idle[:0] = taken.done, taken.back, taken.idle


class NormalChannels:
    """All readers of one process. Safe from any thread and any event loop."""

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        self._readers: dict[str, Reader] = {}
        self._held: set[tuple[int, int]] = set()
        #: Claims on their way to a receiver, whose loop may not have taken notice yet.
        self._granted: dict[asyncio.Future[None], Claimed] = {}
        self._unsettled = Settlement()
        self._in_flight: Settlement | None = None
        self._look_for_lost = False
        #: The number of the latest claim.
        self._latest_claim = 0
        #: Claims whose rows were deleted.
        self._settled: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._leaving = False
        #: What whoever waits is told once nothing is claimed any more.
        self._closed: Exception | None = None
        self._lock = threading.Lock()

    async def get(self, channel: str, opened: Callable[[Claimed], Awaitable[T]]) -> T:
        """Wait for a message, and take over what ``opened`` makes of it: it is the caller's alone.

        A receiver that is cancelled before that gives the message back.
        """
        future: Waiter[None] = Waiter()
        with self._lock:
            if self._closed is not None:
                raise self._closed
            reader = self._readers.setdefault(channel, Reader())
            reader.waiters.append(future)
            reader.hopeful = True
        self._kick()
        try:
            await future
            content = await opened(self._granted[future])
        except asyncio.CancelledError:
            self._leave(channel, future)
            raise
        with self._lock:
            claimed = self._granted.pop(future)
            self._unsettled.done.append(claimed.key)
        # Soon: whoever comes back for the next message at once has the claim tell of this one.
        asyncio.get_running_loop().call_soon(self._kick)
        return content

    def announced(self, channel: str) -> None:
        """There is work in this channel, or there was a moment ago."""
        with self._lock:
            reader = self._readers.get(channel)
            if reader is not None:
                reader.hopeful = True
        self._kick()

    def leave(self) -> None:
        """Claim nothing any more."""
        self._leaving = True

    def close(self, error: Exception) -> None:
        """Claim nothing any more: raise this to whoever waits, and to whoever would."""
        with self._lock:
            self._closed = error
        settle(self.waiters(), error)

    @property
    def unsettled(self) -> bool:
        """The database holds claims of ours that are neither deleted nor given back yet."""
        with self._lock:
            return bool(self._held) or any(reader.busy for reader in self._readers.values())

    def look_again(self) -> None:
        """Look for work in every channel that somebody waits for; forget the others."""
        with self._lock:
            for future in [f for f in self._granted if f.get_loop().is_closed()]:
                self._unsettled.back.append(self._granted.pop(future).key)
            for channel, reader in list(self._readers.items()):
                reader.waiters = [w for w in reader.waiters if not w.get_loop().is_closed()]
                reader.hopeful = True
                if not reader.waiters and not reader.busy:
                    del self._readers[channel]
                    if reader.registered:
                        self._unsettled.idle.append(channel)
            # A claim in doubt may have been carried out after the look that followed it.
            self._look_for_lost = self._look_for_lost or bool(self._readers)

    def forgotten(self) -> None:
        """The database does not know our readers any more."""
        with self._lock:
            for reader in self._readers.values():
                reader.registered = False

    def reconnected(self) -> None:
        """A claim's reply may have been lost with the connection: look for what is ours."""
        with self._lock:
            self._look_for_lost = True

    def recover(self) -> None:
        """Whoever had statements in flight is gone: what they were to do is to be done again."""
        with self._lock:
            for reader in self._readers.values():
                reader.busy = False
                reader.hopeful = True
            if self._in_flight is not None:
                self._unsettled.put_back(self._in_flight)
                self._in_flight = None
            self._look_for_lost = True

    def waiters(self) -> Iterable[asyncio.Future[None]]:
        """Everyone who waits for work."""
        with self._lock:
            found = [w for reader in self._readers.values() for w in reader.waiters]
        return [waiter for waiter in found if not waiter.done()]

    @property
    def waiting(self) -> bool:
        """There may be something to claim or to settle."""
        return bool(self._readers or self._unsettled or self._look_for_lost)

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next statement: find lost claims, settle, register, claim."""
        with self._lock:
            if self._look_for_lost:
                self._look_for_lost = False
                return self._find_lost(identity)
            channel = self._next_channel()
            unsettled = self._unsettled
            # What was handed over goes with a claim, if there is one to be made.
            if unsettled.back or unsettled.idle or (unsettled.done and channel is None):
                return self._settle(identity)
            if channel is None:
                return None
            reader = self._readers[channel] = self._readers.pop(channel)  # the others' turn next
            if reader.registered:
                return self._claim(identity, channel, reader)
            return self._register(identity, channel, reader)

    def _next_channel(self) -> str | None:
        if not self._leaving:
            for channel, reader in self._readers.items():
                if not reader.busy and reader.hopeful and reader.waiters:
                    return channel
        return None

    def _register(self, identity: Identity, channel: str, reader: Reader) -> Call:
        reader.busy = True

        def registered(rows: Rows) -> bool:
            with self._lock:
                reader.busy = False
                reader.registered = True
            return True

        def in_doubt() -> None:
            with self._lock:
                reader.busy = False
                reader.hopeful = True

        def refused(error: Exception) -> None:
            logger.error("Messages of channel %r could not be claimed: %s", channel, error)
            with self._lock:
                reader.busy = reader.hopeful = False

        reading = (identity.prefix, identity.node, channel)
        return Call(statements.READ, reading, registered, in_doubt, refused)

    def _claim(self, identity: Identity, channel: str, reader: Reader) -> Call:
        reader.busy = True
        reader.hopeful = False
        wanted = min(len(reader.waiters), _CLAIMS)
        self._latest_claim += 1
        claim = self._latest_claim
        taken = self._in_flight = self._unsettled.take_done()

        def claimed(rows: Rows) -> bool:
            with self._lock:
                self._carried_out(taken)
            self._hand_over(channel, reader, claim, rows, wanted)
            return True

        def in_doubt() -> None:
            with self._lock:
                self._not_carried_out(taken)
                reader.busy = False
                reader.hopeful = True

        def refused(error: Exception) -> None:
            logger.error("Messages of channel %r could not be claimed: %s", channel, error)
            with self._lock:
                self._not_carried_out(taken)
                reader.busy = reader.hopeful = False

        head = (identity.prefix, identity.node, channel, claim, wanted)
        done = ([row for row, _ in taken.done], [claim for _, claim in taken.done])
        return Call(statements.CLAIM, (*head, *done), claimed, in_doubt, refused)

    def _hand_over(self, channel: str, reader: Reader, claim: int, rows: Rows, wanted: int) -> None:
        wakeups = Wakeups()
        with self._lock:
            reader.busy = False
            if len(rows) == wanted:
                reader.hopeful = True
            for row, item, blob in rows:
                message = Claimed(row, claim, item, blob)
                self._held.add(message.key)
                if not self._give(reader, message, wakeups):
                    self._unsettled.back.append(message.key)
        wakeups.run()

    def _give(self, reader: Reader, message: Claimed, wakeups: Wakeups) -> bool:
        while reader.waiters:
            waiter = reader.waiters.pop(0)
            if not waiter.done() and wakeups.add(waiter):
                self._granted[waiter] = message
                return True
        return False

    def _leave(self, channel: str, future: asyncio.Future[None]) -> None:
        with self._lock:
            reader = self._readers.get(channel)
            if reader is not None and future in reader.waiters:
                reader.waiters.remove(future)
            granted = self._granted.pop(future, None)
            if granted is not None:
                self._unsettled.back.append(granted.key)
        self._kick()

    def _settle(self, identity: Identity) -> Call:
        taken = self._in_flight = self._unsettled.take()

        def settled(rows: Rows) -> bool:
            with self._lock:
                self._carried_out(taken)
            return True

        def in_doubt() -> None:
            with self._lock:
                self._not_carried_out(taken)

        def refused(error: Exception) -> None:
            # The rows stay claimed, and so are not delivered again; the sweep removes them.
            logger.error("Claimed messages could not be settled: %s", error)
            settled([])

        values = (
            identity.node,
            [row for row, _ in taken.done],
            [claim for _, claim in taken.done],
            [row for row, _ in taken.back],
            [claim for _, claim in taken.back],
            # Not what somebody has begun to read again since.
            [channel for channel in taken.idle if not self._is_read(channel)],
        )
        return Call(statements.SETTLE, values, settled, in_doubt, refused)

    def _carried_out(self, taken: Settlement) -> None:
        self._in_flight = None
        self._held.difference_update(taken.done, taken.back)
        self._settled.update(dict.fromkeys(taken.done))
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)

    def _not_carried_out(self, taken: Settlement) -> None:
        self._in_flight = None
        self._unsettled.put_back(taken)

    def _is_read(self, channel: str) -> bool:
        reader = self._readers.get(channel)
        return reader is not None and reader.registered

    def _find_lost(self, identity: Identity) -> Call:
        def found(rows: Rows) -> bool:
            with self._lock:
                for row, _channel, claim in rows:
                    if (row, claim) not in self._held:
                        self._held.add((row, claim))
                        handed_over = (row, claim) in self._settled
                        unsettled = self._unsettled
                        (unsettled.done if handed_over else unsettled.back).append((row, claim))
            return True

        def again() -> None:
            self.reconnected()

        def refused(error: Exception) -> None:
            pass  # the heartbeat's own look finds it

        values = (identity.node, self._latest_claim + 1)
        return Call(statements.CLAIMS, values, found, again, refused)
