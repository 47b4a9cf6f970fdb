"""The listening connection: frames in, each once and in order, handed to whom they are for."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.item import Frame, FrameInvalid, Item, decode_item
from channels_pg_secrets.layer.wire import Rows, Wire, WireLost

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.inbox import Inbox
    from channels_pg_secrets.layer.tenure import Tenure

#: Rows of the backlog read at a time.
PAGE = 500
#: Bytes of notifications kept while the backlog is read; beyond it the backlog is read again.
_BUFFER_BYTES = 32 * 1024 * 1024
#: Bodies read by one statement: bytes, and frames that are looked through for large messages.
_BLOBS_BYTES = 1024 * 1024
_BLOBS_FRAMES = 200
#: Bytes that a frame takes in memory beside its items: two tuples of three, an object of bytes, two
#: numbers, and its place in a deque (sys.getsizeof in CPython: some 260).
_FRAME_BYTES = 300
#: Seconds of silence after which a sender's mark is forgotten: later than any statement of his that
#: a frozen network may still hold, as with the table "sent".
_KEEP_MARKS = 3600.0
#: Ids remembered of senders that are no node.
_SEEN_IDS = 1_000_000


class Watermarks:
    """What this node has seen of each sender; what is not above it is dropped.

    Senders that are no node (0) have no ordered stream: their random numbers are remembered one by
    one, for ``keep_ids`` seconds, until they have expired everywhere. Survives connections and home
    loops.
    """

    def __init__(self, keep_ids: float) -> None:
        self._keep_ids = keep_ids
        self._marks: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._ids: OrderedDict[int, float] = OrderedDict()

    def passes(self, sender: int, number: int) -> bool:
        """The number is new."""
        if sender == 0:
            return number == 0 or number not in self._ids
        return number > self._marks.get(sender, -1)

    def advance(self, sender: int, number: int) -> None:
        """The number has been dealt with."""
        now = time.monotonic()
        if sender:
            self._marks[sender] = number
            self._heard[sender] = now
        elif number:
            self._ids[number] = now
            if len(self._ids) > _SEEN_IDS:
                self._ids.popitem(last=False)

    def columns(self) -> tuple[list[int], list[int]]:
        """Senders and their marks."""
        # All at once: a home that was left may be sweeping yet, in another thread.
        marks = list(self._marks.items())
        return [sender for sender, _ in marks], [number for _, number in marks]

    def sweep(self) -> None:
        """Forget those of whom nothing can come any more."""
        now = time.monotonic()
        silent = now - max(_KEEP_MARKS, self._keep_ids)
        for sender in [s for s, heard in self._heard.items() if heard < silent]:
            del self._marks[sender], self._heard[sender]
        oldest = now - self._keep_ids
        while self._ids and next(iter(self._ids.values())) < oldest:
            self._ids.popitem(last=False)


class Buffer:
    """Notifications that came while the backlog was read, bounded in bytes."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.overflowed = False
        self._bytes = 0

    def add(self, payload: bytes) -> None:
        """Keep one more, unless that is too much: then the rows must be read again."""
        self._bytes += len(payload)
        if self._bytes > _BUFFER_BYTES:
            self.overflowed = True
            self.payloads.clear()
        else:
            self.payloads.append(payload)


@dataclass(slots=True)
class Held:
    """Frames of one sender that wait for the body of a large message before them."""

    #: Each with its age in seconds, and the layer's epoch when it came.
    frames: deque[tuple[Frame, float, int]] = field(default_factory=deque)
    size: int = 0
    #: Some were dropped for want of room: nothing of this sender counts until the rows are read.
    overflowed: bool = False

    def add(self, frame: Frame, age: float, epoch: int) -> None:
        """Keep one more, unless that is too much."""
        self.size += len(frame.items) + _FRAME_BYTES
        if self.size > _BUFFER_BYTES:
            self.overflowed = True
        if not self.overflowed:
            self.frames.append((frame, age, epoch))

    def drop_first(self) -> None:
        """The first has been dealt with."""
        frame, _, _ = self.frames.popleft()
        self.size -= len(frame.items) + _FRAME_BYTES

    def wanted(self) -> list[int]:
        """The numbers of bodies that are waited for, or soon will be; not of all, if many."""
        frames = islice(self.frames, _BLOBS_FRAMES)
        return [frame.number for frame, _, _ in frames if frame.large]


class Listener:
    """Reads frames from one wire at a time. Belongs to the home loop."""

    def __init__(self, identity: Identity, marks: Watermarks, inbox: Inbox, tenure: Tenure) -> None:
        self.wire: Wire | None = None
        #: Called when the server will not hand over a large message: only another session may help.
        self.on_refused: Callable[[Exception], None] = _ignore_error
        #: Called when frames were dropped for want of room: another connection reads their rows.
        self.on_overflow: Callable[[], None] = _nothing
        self._identity = identity
        self._marks = marks
        self._inbox = inbox
        self._tenure = tenure
        self._held: dict[int, Held] = {}
        #: Notifications that wait until the node knows whether it was registered.
        self._kept: Buffer | None = None
        #: What a hand-over under way reads is to be read again, later.
        self._paused = False
        self._warn = inbox.complaints.warn

    async def rehearse(self, wire: Wire) -> None:
        """Have a new session plan how it reads the backlog while the old one still listens."""
        await wire.call(statements.BACKLOG, self._identity.node, [], [], -1, -1, False, 0)

    async def take_over(self, wire: Wire) -> Wire | None:
        """Move to another connection; returns the one used before, for the caller to close.

        LISTEN commits alone; then the backlog is read while notifications are kept; from that read
        on the old connection is ignored. Letting the watermark sort out two live streams lost
        messages: 3 may come on the new one before 2 on the old.
        """
        self._paused = False
        buffer = Buffer()
        wire.on_notify = buffer.add
        await wire.call(statements.listen(self._identity.notify_channel))
        old, self.wire = self.wire, wire
        if old is not None:
            old.on_notify = _ignore
        self._held.clear()
        await self._read_backlog(wire)
        while buffer.overflowed:
            buffer.overflowed = False
            buffer = Buffer()
            wire.on_notify = buffer.add
            await self._read_backlog(wire)
        wire.on_notify = self.notified
        for payload in buffer.payloads:
            self.notified(payload)
        return old

    def keep(self) -> None:
        """Keep what comes until :meth:`resume`, or :meth:`pause` drops it.

        A node that registers may be heard of before it has the answer. If the tables had lost it,
        what was sent before lies there without an announcement, and has to be read first.
        """
        if self._kept is None:
            self._kept = Buffer()

    def resume(self) -> None:
        """Work off what was kept."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if kept.overflowed:
            self.pause()
            self.on_overflow()
        for payload in kept.payloads:
            self.notified(payload)

    def pause(self) -> None:
        """Hear nothing until the next connection has taken over: it reads what comes meanwhile."""
        self._kept, self._paused = None, True
        if self.wire is not None:
            self.wire.on_notify = _ignore

    def notified(self, payload: bytes) -> None:
        """Deal with one notification. A payload that is none of ours is logged and skipped."""
        if self._kept is not None:
            self._kept.add(payload)
            return
        try:
            frame = self._identity.key.open(payload)
        except FrameInvalid as error:
            self._warn("payload", "Skipped a notification that is not ours: %s", error)
            return
        self._arrived(frame, 0.0)

    async def _read_backlog(self, wire: Wire) -> None:
        # Joins first: what one sender sent to a group may stand before another's join, which came
        # before it in time.
        await self._read_pages(wire, self._admit, joins=True)
        frames = await self._read_pages(wire, self._arrived, joins=False)
        self._inbox.health.replayed(frames)

    async def _read_pages(
        self, wire: Wire, take: Callable[[Frame, float], None], *, joins: bool
    ) -> int:
        sender, number, frames = -1, -1, 0
        while True:
            marks = self._marks.columns()
            node = self._identity.node
            rows = await wire.call(statements.BACKLOG, node, *marks, sender, number, joins, PAGE)
            if self._paused:
                raise WireLost("the tables had lost this node: they are read again")
            for sender, number, items, age in rows:
                # Seen from here it is younger by the time that the answer took: a leave and a join
                # that close to each other count as in this order.
                take(Frame(sender, number, items), max(age, 1e-6))
            frames += len(rows)
            if len(rows) < PAGE:
                return frames

    def _arrived(self, frame: Frame, age: float) -> None:
        with self._tenure.lock:
            if not self._tenure.current:
                return
            held = self._held.get(frame.sender)
            is_first = held is None
            if held is None:
                if self._handle(frame, age):
                    return
                held = self._held[frame.sender] = Held()
            elif not self._marks.passes(frame.sender, frame.number):
                return
            held.add(frame, age, self._identity.epoch)
            self._admit(frame, age)
            if is_first:
                self._fetch(frame.sender)

    def _admit(self, frame: Frame, age: float) -> None:
        """Joins do not wait: whoever made them was told that all others' messages arrive."""
        if b"+" not in frame.items or not self._marks.passes(frame.sender, frame.number):
            return
        for data in frame.items.split(b","):
            if data[:1] == b"+":
                try:
                    item = decode_item(data)
                except FrameInvalid:
                    continue  # reported in its turn
                self._inbox.memberships.admitted(item.name, item.channel, age)

    def _handle(self, frame: Frame, age: float, blob: bytes | None = None) -> bool:
        """Deliver a frame; False when it has to wait for its body, which lies in a row."""
        if not self._marks.passes(frame.sender, frame.number):
            return True
        if frame.large and blob is None:
            return False
        items = []
        for data in frame.items.split(b","):
            try:
                item = decode_item(data)
            except FrameInvalid as error:
                self._warn("item", "Skipped an item: %s", error)
                self._inbox.health.drop("unreadable")
                continue
            items.append(item)
        self._marks.advance(frame.sender, frame.number)
        for item in items:
            try:
                self._dispatch(item, frame.sender, blob, age)
            except Exception as error:  # noqa: BLE001  (one message must not stop the others)
                self._warn("delivery", "Dropped a message for %s: %s", item.name, error)
                self._inbox.health.drop("unreadable")
        return True

    def _dispatch(self, item: Item, sender: int, blob: bytes | None, age: float) -> None:
        if item.kind in "cg" and item.body is not None:
            self._inbox.deliver(item, item.body, age)
        elif item.kind in "CG" and blob is not None:
            self._inbox.deliver(item, blob, age)
        else:
            self._inbox.control(item, sender, age)

    def _fetch(self, sender: int) -> None:
        """Ask for the bodies of large messages; that sender's stream waits for the first."""
        wire = self.wire
        if wire is None:
            return

        def reply(rows: Rows, error: Exception | None) -> None:
            with self._tenure.lock:
                superseded = not self._tenure.current or self.wire is not wire
                if superseded or isinstance(error, WireLost):
                    return  # the next connection reads it again: the watermark has not moved
                if error is not None:
                    # Rights that were lost, or a passing trouble: the message may still be there.
                    self.on_refused(error)
                    return
                self._drain(sender, dict(rows))

        # Many at once: a sender whose messages share a statement may be faster than this process
        # could ask for each.
        values = (sender, self._held[sender].wanted(), _BLOBS_BYTES)
        wire.submit(statements.BLOBS, values, reply)

    def _drain(self, sender: int, blobs: dict[int, bytes | None]) -> None:
        """Bodies of large messages are here, or lost: go on with the frames that waited."""
        held = self._held[sender]
        while held.frames:
            frame, age, epoch = held.frames[0]
            blob = blobs.get(frame.number)
            is_flushed = epoch < self._identity.epoch
            is_lost = blob is None and frame.number in blobs
            if not (is_flushed or is_lost):
                if not self._handle(frame, age, blob):
                    self._fetch(sender)
                    return
            elif self._marks.passes(sender, frame.number):
                self._marks.advance(sender, frame.number)
                if not is_flushed:
                    self._warn("blob", "A large message expired before it was read")
                    self._inbox.health.drop("expired")
            held.drop_first()
        if held.overflowed:
            self.on_overflow()
        else:
            del self._held[sender]


def _ignore(_payload: bytes) -> None:
    pass


def _ignore_error(_error: Exception) -> None:
    pass


def _nothing() -> None:
    pass
