"""Which leases this process has to give back, and who still uses them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pg_secrets.credentials import Credentials


class Hold:
    """Says that a connection uses some credentials, until it is released.

    :meth:`release` may be called twice, from any thread, and from a finalizer. Also a context
    manager.
    """

    def __init__(self, release: Callable[[Hold], None]) -> None:
        self._release = release

    def release(self) -> None:
        """Say that the connection is closed; never blocks and never raises."""
        self._release(self)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass
class _Entry:
    credentials: Credentials
    holds: set[Hold] = field(default_factory=set)
    was_held: bool = False
    superseded: bool = False
    leaving: bool = False


class LeaseBook:
    """The leases of one source in one process: a fork's child starts a new book. Thread-safe.

    A lease that was replaced is given back when its last hold is released. One that nobody ever
    held may be in use by somebody who does not say so: it is given back at the end, or expires.
    What was taken is in the book until it was given back, and is not taken twice.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        # Reentrant, and only single atomic steps inside: the garbage collector may run a
        # finalizer that releases a hold at any point of the thread that holds the lock.
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def holds(self) -> int:
        """How many holds are out on leases."""
        return sum(len(entry.holds) for entry in list(self._entries.values()))

    def add(self, credentials: Credentials) -> None:
        """Enter a lease."""
        if credentials.lease is None:
            return
        with self._lock:
            if credentials.fingerprint not in self._entries:
                self._entries[credentials.fingerprint] = _Entry(credentials)
        self.renewed(credentials)

    def renewed(self, credentials: Credentials) -> None:
        """Note what a lease became, unless it has been given back meanwhile."""
        entry = self._entries.get(credentials.fingerprint)
        if entry is not None:
            entry.credentials = credentials

    def supersede(self, credentials: Credentials, *, unused: bool = False) -> None:
        """Note that there is something newer, or that nobody has ever seen this one."""
        with self._lock:
            entry = self._entries.get(credentials.fingerprint)
            if entry is not None:
                entry.superseded = True
                entry.was_held = entry.was_held or unused
        self._notify()

    def supersede_all(self) -> None:
        """Note that nobody will be given any of these any more."""
        with self._lock:
            for entry in list(self._entries.values()):
                entry.superseded = entry.was_held = True

    def hold(self, credentials: Credentials) -> Hold:
        """Keep a lease from being given back; for anything but a lease this does nothing."""
        fingerprint = credentials.fingerprint
        hold = Hold(lambda this: self._released(fingerprint, this))
        with self._lock:
            entry = self._entries.get(fingerprint)
            if entry is not None:
                entry.was_held = True
                entry.holds.add(hold)
        return hold

    def _released(self, fingerprint: str, hold: Hold) -> None:
        entry = self._entries.get(fingerprint)
        if entry is None or hold not in entry.holds:
            return
        entry.holds.discard(hold)
        if entry.superseded and not entry.holds:
            self._notify()

    def take_due(self) -> list[Credentials]:
        """Take the replaced leases whose last hold has been released."""
        return self._take(lambda entry: entry.superseded and entry.was_held and not entry.holds)

    def take_unheld(self) -> list[Credentials]:
        """Take every lease without a hold."""
        return self._take(lambda entry: not entry.holds)

    def take_all(self) -> list[Credentials]:
        """Take every lease, held or not, for when time is up."""
        return self._take(lambda entry: True)

    def put_back(self, leases: Iterable[Credentials]) -> None:
        """Note that these were taken in vain."""
        for credentials in leases:
            entry = self._entries.get(credentials.fingerprint)
            if entry is not None:
                entry.leaving = False

    def remove(self, credentials: Credentials) -> None:
        """Note that a lease that was taken has been given back, or could not be."""
        self._entries.pop(credentials.fingerprint, None)

    def forget_expired(self, now: float) -> None:
        """Drop leases that ended by themselves; ``now`` in seconds since the epoch."""
        for credentials in self._take(lambda entry: _ended(entry.credentials, now)):
            self.remove(credentials)

    def _take(self, wanted: Callable[[_Entry], bool]) -> list[Credentials]:
        taken = []
        with self._lock:
            for entry in list(self._entries.values()):
                if not entry.leaving and wanted(entry):
                    entry.leaving = True
                    taken.append(entry.credentials)
        return taken


def _ended(credentials: Credentials, now: float) -> bool:
    return credentials.expires_at is not None and credentials.expires_at <= now
