"""Function calls that somebody waits for, apart from messages and memberships."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.layer.call import Call
from channels_pg_secrets.layer.publisher import refusal
from channels_pg_secrets.layer.statements import Statement
from channels_pg_secrets.layer.wakeup import settle

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.wire import Rows


class Requests:
    """A queue of calls that may be made twice. Safe from any thread."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Statement, Sequence[Any], Any, float]] = deque()
        self._current: tuple[Statement, Sequence[Any], Any, float] | None = None

    @property
    def waiting(self) -> bool:
        """Somebody waits."""
        return bool(self._queue or self._current)

    def add(self, statement: Statement, values: Sequence[Any], future: Any | None) -> None:
        """Queue a call."""
        self._queue.append((statement, values, future, time.monotonic()))

    def recover(self) -> None:
        """Whoever had a call in flight is gone: it is made again."""
        if self._current is not None:
            self._queue.appendleft(self._current)
            self._current = None

    def fail_late(self, before: float, error: Exception) -> None:
        """Fail what was queued before that time."""
        late = []
        while self._queue and self._queue[0][3] <= before:
            late.append(self._queue.popleft()[2])
        settle([future for future in late if future is not None], error)

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next call."""
        if not self._queue:
            return None
        self._current = self._queue.popleft()
        statement, values, future, _since = self._current

        def done(rows: Rows) -> bool:
            self._current = None
            if future is not None:
                settle([future], None, rows)
            return True

        def refused(error: Exception) -> None:
            self._current = None
            if future is not None:
                settle([future], refusal(error))

        return Call(statement, values, done, self.recover, refused)
