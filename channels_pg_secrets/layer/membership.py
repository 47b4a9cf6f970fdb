"""Which channels of this process are in which groups, and what the database knows of it.

The database holds one row for a group with members in this process, whatever their number, and one
for each normal channel in a group. Changes are written as the state that a group should have, not
as operations: a discard and an add folded into one statement left no row at all.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from channels_pg_secrets.layer.wakeup import settle

#: Rows written by one statement.
CHUNK = 5000
#: A row outlives the membership that wrote it by this part of group_expiry, so that a steady
#: stream of joins renews it now and then instead of every time.
_ROW_SLACK = 0.1

#: (group, channel): channel '' is this process, any other a normal channel.
Key = tuple[str, str]


def _now() -> float:
    return time.monotonic()  # looked up at each call, so that tests can stop the clock


@dataclass(slots=True)
class Row:
    """One row of the member table as this process wants it."""

    #: channel -> (joined, expires) on the monotonic clock
    members: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Until when the row that is in the database will do.
    stored_until: float = 0.0
    #: Joins that other processes have written into the row.
    foreign_adds: int = 0
    capacity: int = 0


class Memberships:
    """The memberships of one process. Safe from any thread and any event loop."""

    def __init__(self, group_expiry: float, capacity_of: Callable[[str], int]) -> None:
        self.group_expiry = group_expiry
        self._capacity_of = capacity_of
        self._rows: dict[Key, Row] = {}
        self._dirty: dict[Key, list[asyncio.Future[None]]] = {}
        self._in_flight: Change | None = None
        self._version = 0
        self._lock = threading.Lock()

    @property
    def row_ttl(self) -> float:
        """Seconds for which the row of a node is written."""
        return self.group_expiry * (1 + _ROW_SLACK)

    def add(self, group: str, channel: str, *, local: bool) -> asyncio.Future[None] | None:
        """Join; the future is done when other processes see it, ``None``: they do already."""
        now = time.monotonic()
        key = (group, "" if local else channel)
        expires = now + self.group_expiry
        with self._lock:
            row = self._rows.setdefault(key, Row())
            joined, until = row.members.get(channel, (now, 0.0))
            row.members[channel] = (joined if until > now else now, expires)
            if not local:
                row.capacity = self._capacity_of(channel)
            # A normal channel's row is everybody's: another process may have deleted it meanwhile.
            if local and key not in self._dirty and row.stored_until >= expires:
                return None
            return self._flushed(key)

    def discard(self, group: str, channel: str, *, local: bool) -> asyncio.Future[None] | None:
        """Leave; the future is done when no other process sends there any more.

        A channel of this process has left at once, whatever others still send: ``None``.
        """
        key = (group, "" if local else channel)
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                row.members.pop(channel, None)
                if not row.members:
                    row.stored_until = 0.0
                    self._dirty.setdefault(key, [])
            return None if local else self._flushed(key)

    def joined_from_elsewhere(self, group: str, channel: str, age: float = 0.0) -> None:
        """Another process joined one of our channels ``age`` seconds ago, and wrote the row."""
        with self._lock:
            row = self._rows.setdefault((group, ""), Row())
            row.foreign_adds += 1
            self._join(row, channel, age)
            # Our own delete may have met the row before this join reached us.
            self._dirty.setdefault((group, ""), [])

    def admitted(self, group: str, channel: str, age: float) -> None:
        """Such a join is here, but must wait for its turn: its channel hears the group already."""
        with self._lock:
            self._join(self._rows.setdefault((group, ""), Row()), channel, age)

    def left_from_elsewhere(self, group: str, channel: str, age: float) -> None:
        """Another process took one of our channels out ``age`` seconds ago."""
        left = time.monotonic() - age
        with self._lock:
            row = self._rows.get((group, ""))
            member = row.members.get(channel) if row is not None else None
        # Not what has joined again since.
        if member is not None and member[1] - self.group_expiry <= left:
            self.discard(group, channel, local=True)

    def local_members(self, group: str, age: float = 0.0) -> list[str]:
        """The channels of this process that are in a group and were when the message was sent."""
        now = time.monotonic()
        with self._lock:
            row = self._rows.get((group, ""))
            if row is None:
                return []
            if age == 0.0:
                return [channel for channel, (_, until) in row.members.items() if until > now]
            sent = now - age
            return [
                c for c, (joined, until) in row.members.items() if until > now and joined <= sent
            ]

    @property
    def dirty(self) -> bool:
        """Something is to be written."""
        return bool(self._dirty)

    def take_dirty(self) -> Change | None:
        """Return what to write next; pass it to :meth:`written` or :meth:`failed`."""
        with self._lock:
            if not self._dirty:
                return None
            waiters: list[asyncio.Future[None]] = []
            self._version += 1
            change = Change(waiters=waiters, version=self._version)
            for key in list(self._dirty)[:CHUNK]:
                waiters.extend(self._dirty.pop(key))
                row = self._rows.get(key) or Row()
                if not row.members:
                    # An older change may have been written since they left. Whoever joins while
                    # the delete is in flight must wait for a row of its own.
                    row.stored_until = 0.0
                change.keys.append(key)
                change.present.append(bool(row.members))
                change.foreign.append(row.foreign_adds)
                change.capacities.append(row.capacity)
            self._in_flight = change
        return change

    def written(self, change: Change) -> None:
        """The change is in the database."""
        with self._lock:
            self._in_flight = None
            for key, present, foreign in zip(
                change.keys, change.present, change.foreign, strict=True
            ):
                row = self._rows.get(key)
                if row is None:
                    continue
                row.stored_until = change.begun + self.row_ttl if present else 0.0
                if present:
                    continue
                row.foreign_adds -= foreign  # as the SQL function does
                if not row.members and not row.foreign_adds and key not in self._dirty:
                    del self._rows[key]
        settle(change.waiters, None)

    def failed(self, change: Change) -> None:
        """The change may not be in the database: it is to be written again."""
        with self._lock:
            self._in_flight = None
            for key in change.keys:
                self._dirty.setdefault(key, [])
            if change.keys:
                self._dirty[change.keys[0]].extend(change.waiters)

    def recover(self) -> None:
        """Whoever had a change in flight is gone: it is to be written again."""
        if self._in_flight is not None:
            self.failed(self._in_flight)

    def abandoned(self, change: Change, error: Exception) -> None:
        """The database will not have the change; the next one to touch these groups tries again."""
        with self._lock:
            self._in_flight = None
        settle(change.waiters, error)

    def forgotten(self) -> None:
        """The database lost our rows: write them again."""
        with self._lock:
            for key, row in self._rows.items():
                if key[1]:
                    continue  # everybody's row: it outlives our node, and others may have ended it
                row.stored_until = 0.0
                row.foreign_adds = 0
                self._dirty.setdefault(key, [])

    def fail_waiters(self, error: Exception, before: float) -> None:
        """Tell those who have waited since before that time; what they want stays to be written."""
        with self._lock:
            late = [w for waiters in self._dirty.values() for w in waiters if _since(w) <= before]
            for waiters in self._dirty.values():
                waiters[:] = [w for w in waiters if _since(w) > before and not w.done()]
        settle(late, error)

    def waiters(self) -> Iterable[asyncio.Future[None]]:
        """Everyone who waits for a change to be written."""
        with self._lock:
            return [w for waiters in self._dirty.values() for w in waiters if not w.done()]

    def sweep(self) -> None:
        """Drop memberships that have expired."""
        now = time.monotonic()
        with self._lock:
            gone: list[Key] = []
            for key, row in self._rows.items():
                expired = [c for c, (_, until) in row.members.items() if until <= now]
                for channel in expired:
                    del row.members[channel]
                if expired and not row.members:
                    if key[1]:
                        # Everybody's row: another process may have renewed it. It ends by itself.
                        gone.append(key)
                    else:
                        self._dirty.setdefault(key, [])
            for key in gone:
                if key not in self._dirty:
                    del self._rows[key]

    def clear(self) -> None:
        """Drop all; the database has no rows of ours either."""
        with self._lock:
            self._rows.clear()
            waiting = [w for waiters in self._dirty.values() for w in waiters]
            self._dirty.clear()
        settle(waiting, None)

    def _join(self, row: Row, channel: str, age: float) -> None:
        then = time.monotonic() - age
        joined, until = row.members.get(channel, (then, 0.0))
        joined = joined if until > then else then
        row.members[channel] = (joined, max(until, then + self.group_expiry))

    def _flushed(self, key: Key) -> asyncio.Future[None]:
        future: Flushed = Flushed(loop=asyncio.get_running_loop())
        future.since = time.monotonic()
        self._dirty.setdefault(key, []).append(future)
        return future


class Flushed(asyncio.Future[None]):
    """Done when the group's row is written; knows since when somebody waits."""

    since: float = 0.0


@dataclass(slots=True)
class Change:
    """Rows to be written by one statement."""

    waiters: list[asyncio.Future[None]]
    #: Grows with each: the database ignores what comes after its successor.
    version: int = 0
    keys: list[Key] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    foreign: list[int] = field(default_factory=list)
    capacities: list[int] = field(default_factory=list)
    begun: float = field(default_factory=_now)

    def columns(self) -> tuple[Any, ...]:
        """The arrays that the SQL function takes."""
        groups = [group for group, _ in self.keys]
        channels = [channel for _, channel in self.keys]
        return groups, channels, self.present, self.foreign, self.capacities


def _since(waiter: asyncio.Future[None]) -> float:
    return waiter.since if isinstance(waiter, Flushed) else 0.0
