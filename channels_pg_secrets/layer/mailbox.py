"""Messages that have arrived in this process and wait for their receiver."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from channels_pg_secrets.layer.full_channels import FullChannels
from channels_pg_secrets.layer.health import Health
from channels_pg_secrets.layer.waiter import Waiter
from channels_pg_secrets.layer.wakeup import running_loop, settle

#: Bytes of all messages waiting in one process; beyond it everything counts as full.
MAX_BYTES = 256 * 1024 * 1024


#: When a message expires on the monotonic clock, and the message.
Entry = tuple[float, bytes]


class Mailbox:
    """One channel's messages and those who wait for them."""

    __slots__ = ("capacity", "full", "handed", "messages", "waiters")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        #: Oldest first; None until a message has to wait.
        self.messages: deque[Entry] | None = None
        #: Their result is a message, or None: look into the mailbox.
        self.waiters: list[Waiter[Entry | None]] = []
        #: Those who were handed a message and have not had their turn.
        self.handed = 0
        #: It reached its capacity, and has not fallen to half of it since.
        self.full = False


class Mailboxes:
    """The mailboxes of one process. Safe from any thread and any event loop.

    A receiver that waits in the loop that delivers is handed the message; if it is cancelled before
    its turn, or its loop stands still, the message is put back. One in another loop is only woken.

    Other processes are told of channels that are full: ``kick`` is called when there is something
    to be written.
    """

    def __init__(
        self,
        capacity_of: Callable[[str], int],
        expiry: float,
        kick: Callable[[], None],
        health: Health,
    ) -> None:
        self.full = FullChannels(kick)
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._health = health
        self._boxes: dict[str, Mailbox] = {}
        #: Those who were handed a message and have not had their turn, and where it is from.
        self._handed: dict[Waiter[Entry | None], Mailbox] = {}
        self._bytes = 0
        #: What whoever waits is told once nothing comes any more.
        self._closed: Exception | None = None
        self._lock = threading.Lock()

    def put(self, channel: str, message: bytes, age: float = 0.0) -> bool:
        """Add one message that is ``age`` seconds old; False when the channel is at capacity."""
        return not self.deliver((channel,), message, age)

    def deliver(self, channels: Iterable[str], message: bytes, age: float = 0.0) -> list[str]:
        """Add one message to each channel; return those that are at capacity."""
        now = time.monotonic()
        entry = (now + self._expiry - age, message)
        full: list[str] = []
        elsewhere: list[Waiter[Entry | None]] = []
        running = running_loop()
        boxes = self._boxes
        with self._lock:
            for channel in channels:
                box = boxes.get(channel) or self._open(channel)
                if box.messages:
                    self._drop_expired(channel, box, now)
                woken: bool | None = None
                if box.waiters:
                    woken = self._wake(box, entry, running, elsewhere)
                    if woken is False:
                        continue
                if not self._add(channel, box, entry, woken=bool(woken)):
                    full.append(channel)
        if elsewhere:
            settle(elsewhere, None)
        if self.full.changed:
            self.full.tell()
        return full

    def take(self, channel: str) -> bytes | None:
        """Return the next message of a channel, if there is one."""
        box = self._boxes.get(channel)
        if box is None or not box.messages:
            return None
        with self._lock:
            if box.handed:
                # Or what it was would come after this one, if that receiver is cancelled.
                for waiter, to in reversed(self._handed.copy().items()):
                    if to is box:
                        self._recall(waiter, box)
            message = self._take(channel, box)
        if self.full.changed:
            self.full.tell()
        return message

    def wait(self, channel: str) -> Waiter[Entry | None]:
        """Have somebody wait, for whom :meth:`take` found nothing.

        No coroutine, since thousands wait: whoever calls this awaits the waiter, passes it and what
        came of it to :meth:`handed`, and must :meth:`leave` if anything else comes of it.
        """
        waiter: Waiter[Entry | None] = Waiter()
        with self._lock:
            if self._closed is not None:
                raise self._closed
            box = self._boxes.get(channel) or self._open(channel)
            if box.messages:
                waiter.set_result(None)
            else:
                box.waiters.append(waiter)
        return waiter

    def handed(self, waiter: Waiter[Entry | None], entry: Entry | None) -> bytes | None:
        """Return what a receiver was handed. None: look into the mailbox, and wait again."""
        if entry is None:
            return None
        with self._lock:
            box = self._handed.pop(waiter, None)
            if box is None:
                return None
            box.handed -= 1
        return entry[1]

    def leave(self, channel: str, waiter: Waiter[Entry | None]) -> None:
        """A receiver was cancelled: what it was handed goes back, and the next one is woken."""
        if waiter.get_loop().is_closed():
            # It is the garbage collector that closes the receiver, perhaps while this very thread
            # holds the lock; sweep() puts back what it was handed.
            return
        elsewhere: list[Waiter[Entry | None]] = []
        with self._lock:
            box = self._boxes.get(channel) or self._open(channel)
            if waiter in box.waiters:
                box.waiters.remove(waiter)
            if waiter in self._handed:
                self._recall(waiter, box)
            if box.messages:
                self._wake(box, None, running_loop(), elsewhere)
        settle(elsewhere, None)

    def __contains__(self, channel: object) -> bool:
        """There is a mailbox, and so its channel is this process's own and its name valid."""
        return channel in self._boxes

    def __len__(self) -> int:
        return len(self._boxes)

    @property
    def size(self) -> int:
        """Bytes of all messages that wait."""
        return self._bytes

    def waiters(self) -> Iterator[Waiter[Entry | None]]:
        """Everyone who waits for a message and is not cancelled."""
        with self._lock:
            found = [waiter for box in self._boxes.values() for waiter in box.waiters]
        return (waiter for waiter in found if not waiter.done())

    def awaited_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Somebody waits for a message in this loop."""
        with self._lock:
            return any(
                waiter.get_loop() is loop and not waiter.done()
                for box in self._boxes.values()
                for waiter in box.waiters
            )

    def put_back(self, channel: str, message: bytes, expires: float) -> None:
        """Put back, before all others, what was taken and could not be handed over."""
        elsewhere: list[Waiter[Entry | None]] = []
        with self._lock:
            box = self._boxes.get(channel) or self._open(channel)
            self._put_back(box, (expires, message))
            self._wake(box, None, running_loop(), elsewhere)
        settle(elsewhere, None)

    def reclaim(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put back what was handed to receivers in a loop that stands still or is closed."""
        elsewhere: list[Waiter[Entry | None]] = []
        with self._lock:
            for waiter, box in reversed(self._handed.copy().items()):
                if waiter.get_loop() is loop:
                    self._recall(waiter, box)
                    self._wake(box, None, running_loop(), elsewhere)
        settle(elsewhere, None)

    def sweep(self) -> None:
        """Drop what has expired, and the mailboxes that are left with nothing."""
        for loop in {waiter.get_loop() for waiter in self._handed.copy()}:
            if loop.is_closed():
                self.reclaim(loop)
        now = time.monotonic()
        elsewhere: list[Waiter[Entry | None]] = []
        with self._lock:
            for channel in list(self._boxes):
                box = self._boxes[channel]
                if box.messages:
                    self._drop_expired(channel, box, now)
                # Those of a loop closed without cancelling them can never leave by themselves.
                box.waiters = [w for w in box.waiters if not w.get_loop().is_closed()]
                if box.messages:  # and one of those was woken, perhaps
                    self._wake(box, None, running_loop(), elsewhere)
                self._forget_if_empty(channel, box)
        settle(elsewhere, None)
        self.full.sweep()

    def clear(self) -> None:
        """Drop all messages; those who wait go on waiting."""
        with self._lock:
            for channel in list(self._boxes):
                box = self._boxes[channel]
                box.messages, box.full = None, False
                self._forget_if_empty(channel, box)
            self._bytes = 0
            self.full.clear()
        self.full.tell()

    def close(self, error: Exception) -> None:
        """Nothing comes any more: raise this to whoever waits, and to whoever would."""
        with self._lock:
            self._closed = error
        settle(self.waiters(), error)

    def _open(self, channel: str) -> Mailbox:
        box = self._boxes[channel] = Mailbox(self._capacity_of(channel))
        return box

    def _add(self, channel: str, box: Mailbox, entry: Entry, *, woken: bool) -> bool:
        messages = box.messages
        if messages is None:
            messages = box.messages = deque()
        fits = len(messages) < box.capacity
        if fits and self._bytes + len(entry[1]) > MAX_BYTES:
            return False
        if fits:
            self._bytes += len(entry[1])
            messages.append(entry)
        # Not where somebody takes it at once: with a small capacity that is the usual case.
        if len(messages) >= box.capacity and not (box.full or (woken and fits)):
            box.full = True
            self.full.add(channel)
        return fits

    def _take(self, channel: str, box: Mailbox) -> bytes | None:
        messages = box.messages
        if messages:
            self._drop_expired(channel, box, time.monotonic())
        if not messages:
            return None
        _, message = messages.popleft()
        self._bytes -= len(message)
        if box.full:
            self._relieve(channel, box)
        return message

    def _wake(
        self,
        box: Mailbox,
        entry: Entry | None,
        running: asyncio.AbstractEventLoop | None,
        elsewhere: list[Waiter[Entry | None]],
    ) -> bool | None:
        """Serve whoever has waited longest, and say whether they will look into the mailbox.

        False: they were handed the entry. None: nobody waits. Those of another loop than the
        running one are left in ``elsewhere``, for the caller to wake.
        """
        while box.waiters:
            waiter = box.waiters.pop(0)
            if waiter.done():
                continue
            loop = waiter.get_loop()
            if loop is not running:
                if not loop.is_closed():
                    elsewhere.append(waiter)
                    return True
            elif box.messages:
                waiter.set_result(None)  # what came before is for them
                return True
            else:
                waiter.set_result(entry)
                self._handed[waiter] = box
                box.handed += 1
                return False
        return None

    def _recall(self, waiter: Waiter[Entry | None], box: Mailbox) -> None:
        """Put back what a receiver was handed, who looks again when it is their turn."""
        del self._handed[waiter]
        box.handed -= 1
        self._put_back(box, waiter.result())

    def _put_back(self, box: Mailbox, entry: Entry | None) -> None:
        assert entry is not None  # noqa: S101  (it was handed over)
        if box.messages is None:
            box.messages = deque()
        box.messages.appendleft(entry)
        self._bytes += len(entry[1])

    def _drop_expired(self, channel: str, box: Mailbox, now: float) -> None:
        messages = box.messages
        while messages and messages[0][0] <= now:
            self._bytes -= len(messages.popleft()[1])
            self._health.drop("expired")
        if box.full:
            self._relieve(channel, box)

    def _relieve(self, channel: str, box: Mailbox) -> None:
        # At half, not one below: or each message taken and put would be told to all.
        if len(box.messages or ()) <= box.capacity // 2:
            box.full = False
            self.full.discard(channel)

    def _forget_if_empty(self, channel: str, box: Mailbox) -> None:
        if not (box.messages or box.waiters or box.handed):
            del self._boxes[channel]
            if box.full:  # with a capacity of nothing
                self.full.discard(channel)
