"""Messages on their way out of this process: a bounded queue, taken in batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Any

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer.item import MAX_ITEM, membership_item
from channels_pg_secrets.layer.wakeup import Wakeups

#: Bytes waiting to be published, at most; beyond it a send fails at once.
MAX_BYTES = 64 * 1024 * 1024
#: Bytes and elements of one batch: large enough to amortise a commit, small enough to keep the next
#: sender's wait short. A message of more bytes goes alone.
BATCH_BYTES = 512 * 1024
BATCH_ELEMENTS = 400
#: What is kept to be sent again after a crash emptied the tables: seconds, and bytes.
KEEP_SECONDS = 10.0
KEEP_BYTES = 8 * 1024 * 1024


class Outgoing:
    """One message, join or leave, and the future of whoever sends it.

    The future's result is True, or False for a channel that is at capacity, and for the join or
    leave of a channel whose process is gone.
    """

    __slots__ = ("blob", "capacity", "channel", "future", "group", "item", "node", "since", "size")

    def __init__(
        self,
        item: bytes,
        *,
        node: int | None = None,
        group: str | None = None,
        channel: str | None = None,
        capacity: int | None = None,
        blob: bytes | None = None,
    ) -> None:
        self.item = item
        self.node = node
        self.group = group
        self.channel = channel
        self.capacity = capacity
        self.blob = blob
        self.future: asyncio.Future[bool] | None = None
        self.since = time.monotonic()
        #: Bytes that it holds.
        self.size = len(item) if blob is None else len(item) + len(blob)

    @property
    def plain(self) -> bool:
        """It is nothing but an item for one node, and may share an element with its neighbours."""
        return self.node is not None and self.group is None and self.blob is None

    @property
    def receiver(self) -> str | None:
        """The channel of another process that it is a message to."""
        if self.node is None or self.group is not None or self.item[:1] not in b"cC":
            return None
        return self.item[1:].partition(b" ")[0].decode("ascii")


def membership(kind: str, owner: int, group: str, channel: str, token: str) -> Outgoing:
    """Return the join (``+``) or leave (``-``) of another process's channel.

    A join writes that process's membership; the process sends the token back when it has heard.
    """
    return Outgoing(membership_item(kind, group, channel, token), node=owner, group=group)


class Batch:
    """What one ``publish`` carries: elements ``base + 1``, ``base + 2``… of this node's stream."""

    __slots__ = ("base", "elements", "retry", "since", "size")

    def __init__(
        self, base: int, elements: list[list[Outgoing]], retry: bool, since: float
    ) -> None:
        self.base = base
        self.elements = elements
        #: Sent before, with an outcome that is not known.
        self.retry = retry
        self.since = since
        self.measure()

    def measure(self) -> None:
        """Count its bytes, after its elements were set."""
        #: Bytes that it holds.
        self.size = sum([out.size for element in self.elements for out in element])

    def messages(self) -> Iterator[Outgoing]:
        """Everything in it, in order."""
        return (out for element in self.elements for out in element)

    @property
    def is_single(self) -> bool:
        """It is one element, sent for the first time."""
        return len(self.elements) == 1 and not self.retry

    def body(self) -> bytes:
        """The items of its first element."""
        return _body(self.elements[0])

    def columns(self) -> tuple[Any, ...]:
        """The arrays that the SQL function takes."""
        heads = [element[0] for element in self.elements]
        return (
            [head.node for head in heads],
            [head.group for head in heads],
            [head.channel for head in heads],
            [head.capacity for head in heads],
            [_body(element) for element in self.elements],
            [head.blob for head in heads],
        )

    def halves(self) -> tuple[Batch, Batch]:
        """Split, keeping every element's number."""
        middle = len(self.elements) // 2
        first = Batch(self.base, self.elements[:middle], self.retry, self.since)
        return first, Batch(self.base + middle, self.elements[middle:], self.retry, self.since)


class Outbox:
    """What this process has to publish, in order. Safe from any thread.

    The state outlives connections and home loops: a batch in flight stays here until its outcome is
    known, and is sent again with the same numbers.
    """

    def __init__(self, retry_budget: float) -> None:
        """``retry_budget``: seconds after which a batch in doubt is given up, below the expiry."""
        self._retry_budget = retry_budget
        self._queue: deque[Outgoing] = deque()
        self._batches: deque[Batch] = deque()
        self._kept: deque[Batch] = deque()
        self._kept_bytes = 0
        self._bytes = 0
        self._number = 0
        self._lock = threading.Lock()

    def add(self, out: Outgoing) -> None:
        """Queue a message. Raises ChannelLayerUnavailable when the queue is full."""
        size = out.size
        with self._lock:
            if self._bytes + size > MAX_BYTES:
                raise ChannelLayerUnavailable(
                    f"{self._bytes} bytes are waiting to be published (at most {MAX_BYTES});"
                    " the database is away or slower than what is sent"
                )
            self._bytes += size
            self._queue.append(out)

    @property
    def size(self) -> int:
        """Bytes of all that waits."""
        return self._bytes

    @property
    def waiting(self) -> bool:
        """There is something to publish."""
        return bool(self._queue or self._batches)

    def next_batch(self) -> Batch | None:
        """Return the batch to send now: the one in doubt, or a new one of what has queued up."""
        if self._batches:
            self._give_up_old()
        with self._lock:
            if self._batches:
                return self._batches[0]
            elements = self._take_elements()
            if not elements:
                return None
            batch = Batch(self._number, elements, False, time.monotonic())
            self._number += len(batch.elements)
            self._batches.append(batch)
            return batch

    def done(self, batch: Batch, refused: Container[int]) -> None:
        """The batch is committed; ``refused`` are the elements that were for nobody."""
        wakeups = Wakeups()
        for number, element in enumerate(batch.elements, 1):
            for out in element:
                if out.future is not None:
                    wakeups.add(out.future, number not in refused)
                    out.future = None  # what is kept is waited for by nobody
        with self._lock:
            self._drop(batch)
            self._keep(batch)
        wakeups.run()

    def refuse(self, batch: Batch, channels: Container[str]) -> None:
        """These channels of other processes are full, and nothing of the batch was done.

        Their messages fail, and the rest is sent instead. It may be numbered anew: only what was
        never in doubt is refused, so no ghost has these numbers.
        """
        wakeups = Wakeups()
        elements: list[list[Outgoing]] = []
        for element in batch.elements:
            rest = []
            for out in element:
                if out.receiver not in channels:
                    rest.append(out)
                elif out.future is not None:
                    wakeups.add(out.future, False)
            if rest:
                elements.append(rest)
        with self._lock:
            self._bytes -= batch.size
            batch.elements = elements
            batch.measure()
            self._bytes += batch.size
            if not elements:
                self._drop(batch)
        wakeups.run()

    def recover(self) -> None:
        """Whoever had a batch in flight is gone: its outcome is in doubt."""
        with self._lock:
            for batch in self._batches:
                batch.retry = True

    def split(self, batch: Batch) -> None:
        """The batch was refused as a whole: send its halves instead."""
        with self._lock:
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
                self._batches.extendleft(reversed(batch.halves()))

    def fail(self, batch: Batch, error: Exception) -> None:
        """The batch will never be sent again."""
        with self._lock:
            self._drop(batch)
        wakeups = Wakeups()
        for out in batch.messages():
            if out.future is not None:
                wakeups.add(out.future, error=error)
        wakeups.run()

    def fail_late(self, before: float, error: Exception) -> None:
        """Fail whatever was queued before that time; what is in doubt may still arrive."""
        wakeups = Wakeups()
        with self._lock:
            while self._queue and self._queue[0].since <= before:
                out = self._queue.popleft()
                self._bytes -= out.size
                if out.future is not None:
                    wakeups.add(out.future, error=error)
            for out in self._in_doubt():
                future = out.future  # done() takes it away, perhaps in another thread
                if out.since <= before and future is not None:
                    wakeups.add(future, error=error)
        wakeups.run()

    def resend(self) -> None:
        """The tables were emptied: what was published lately goes first, with its old numbers."""
        with self._lock:
            for batch in reversed(self._recent()):
                batch.retry = True
                self._batches.appendleft(batch)
                self._bytes += batch.size
            self._kept.clear()
            self._kept_bytes = 0

    def futures(self) -> Iterable[asyncio.Future[bool]]:
        """Everyone who waits for a message to be published."""
        with self._lock:
            outs = list(self._queue)
            outs += [
                out for batch in self._batches for element in batch.elements for out in element
            ]
        return [out.future for out in outs if out.future is not None and not out.future.done()]

    def _in_doubt(self) -> Iterator[Outgoing]:
        return (out for batch in self._batches for out in batch.messages())

    def _give_up_old(self) -> None:
        """What was in doubt for too long would expire on arrival."""
        oldest = time.monotonic() - self._retry_budget
        while self._batches and self._batches[0].since <= oldest:
            self.fail(self._batches[0], ChannelLayerUnavailable("The message has expired"))

    def _take_elements(self) -> list[list[Outgoing]]:
        elements: list[list[Outgoing]] = []
        size = element_size = 0
        while self._queue and len(elements) < BATCH_ELEMENTS:
            out = self._queue[0]
            if out.future is not None and out.future.cancelled():
                self._queue.popleft()
                self._bytes -= out.size
                continue
            if elements and size + out.size > BATCH_BYTES:
                break
            last = elements[-1] if elements else None
            joins = last is not None and out.plain and last[0].plain and last[0].node == out.node
            fits = element_size + len(out.item) < MAX_ITEM
            if joins and not fits and len(elements) == 1:
                # A frame that is full goes alone: that is the cheapest statement, and its senders
                # make their next messages while the server has the next frame.
                break
            self._queue.popleft()
            size += out.size
            if last is not None and joins and fits:
                last.append(out)
                element_size += len(out.item) + 1
            else:
                elements.append([out])
                element_size = len(out.item)
        return elements

    def _drop(self, batch: Batch) -> None:
        if batch in self._batches:
            self._batches.remove(batch)
            self._bytes -= batch.size

    def _keep(self, batch: Batch) -> None:
        self._kept.append(batch)
        self._kept_bytes += batch.size
        oldest = time.monotonic() - KEEP_SECONDS
        while self._kept and (self._kept_bytes > KEEP_BYTES or self._kept[0].since < oldest):
            self._kept_bytes -= self._kept.popleft().size

    def _recent(self) -> list[Batch]:
        # Not KEEP_SECONDS: that is how long before the crash, and the server's recovery takes time.
        oldest = time.monotonic() - self._retry_budget
        return [batch for batch in self._kept if batch.since >= oldest]


def _body(element: list[Outgoing]) -> bytes:
    return element[0].item if len(element) == 1 else b",".join([out.item for out in element])
