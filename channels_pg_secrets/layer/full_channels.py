"""Which channels of this process are full, and what the database knows of it.

Senders in other processes are refused by what stands in the node's row. The row is written as the
state it should have, not as operations, so that whatever was lost or overtaken is made good by the
next statement.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Call

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.wire import Rows

logger = logging.getLogger("channels_pg_secrets.layer")

#: Full channels that are told to others, at most; messages to the rest are dropped on arrival.
MAX_NAMES = 100
#: Channels that filled up, remembered between two sweeps.
_LATELY = 1000


class FullChannels:
    """The full channels of one process. Safe from any thread.

    ``kick`` is called by :meth:`tell`, when there is something to be written.
    """

    def __init__(self, kick: Callable[[], None]) -> None:
        self._kick = kick
        #: In the order in which they filled up.
        self._names: dict[str, None] = {}
        self._lately: dict[str, None] = {}
        #: What the node's row holds; None: not known.
        self._stored: list[str] | None = []
        self._in_flight = False
        self._version = 0
        #: The row may have to be written.
        self._dirty = False
        #: As above, and nobody was told yet.
        self.changed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, channel: str) -> None:
        """A channel has filled up."""
        with self._lock:
            self._names[channel] = None
            if len(self._lately) < _LATELY:
                self._lately[channel] = None
            self._dirty = self.changed = True

    def lately(self) -> list[str]:
        """Return those that have filled up since the last time."""
        with self._lock:
            lately, self._lately = self._lately, {}
        return list(lately)

    def discard(self, channel: str) -> None:
        """A channel has room again."""
        with self._lock:
            self._names.pop(channel, None)
            self._dirty = self.changed = True

    def clear(self) -> None:
        """All have room again."""
        with self._lock:
            self._names.clear()
            self._dirty = self.changed = True

    def sweep(self) -> None:
        """Have it written once more if it is not known what the row holds, as after a refusal."""
        with self._lock:
            if self._stored is None and not self._in_flight:
                self._dirty = self.changed = True
        self.tell()

    def tell(self) -> None:
        """Have it written if anything changed. Not while a lock is held that others wait for."""
        if self.changed:
            self.changed = False
            self._kick()

    def forgotten(self) -> None:
        """The node's row is new. An earlier statement's ghost may still come: write it anyway."""
        with self._lock:
            self._doubt()

    def recover(self) -> None:
        """Whoever had the statement in flight is gone: it is to be written again."""
        with self._lock:
            if self._in_flight:
                self._doubt()

    @property
    def waiting(self) -> bool:
        """The row may have to be written."""
        return self._dirty

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next ``full``, if the row is not as it should be."""
        with self._lock:
            self._dirty = False
            wanted = list(islice(self._names, MAX_NAMES))
            if wanted == self._stored:
                return None
            self._version += 1
            self._in_flight = True

        def done(rows: Rows) -> bool:
            with self._lock:
                self._in_flight = False
                self._stored = wanted
            return bool(rows[0][0] == 0)

        def in_doubt() -> None:
            with self._lock:
                self._doubt()

        def refused(error: Exception) -> None:
            # The next change tries again, or the next sweep: it is no passing error.
            logger.error("Other processes could not be told which channels are full: %s", error)
            with self._lock:
                self._in_flight = False
                self._stored = None

        values = (identity.node, identity.incarnation, self._version, wanted)
        return Call(statements.FULL, values, done, in_doubt, refused)

    def _doubt(self) -> None:
        self._in_flight = False
        self._stored = None
        self._dirty = True
