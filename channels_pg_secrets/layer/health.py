"""How a layer is doing in this process: what it has counted, and whom it tells."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

from django.dispatch import Signal

from channels_pg_secrets import signals

logger = logging.getLogger("channels_pg_secrets.layer")

#: Signals that wait to be sent, at most; of more, the oldest are lost.
_PENDING = 1000
#: Channels over capacity that are told apart between two sweeps.
_NAMED_CHANNELS = 1000


class Health:
    """Counters since the start, and signals that wait to be sent.

    Counting is safe from any thread, as far as it goes: two threads that count at once may count
    one too few. It is not worth a lock on the message path.
    """

    def __init__(self, sender: type, prefix: str, node: str) -> None:
        """``sender`` is that of the signals."""
        #: Messages, joins and leaves given to the database.
        self.sent = 0
        #: Messages that reached a channel of this process, or were claimed by it.
        self.received = 0
        #: Sends that raised ChannelFull.
        self.refused = 0
        #: Messages dropped, by reason.
        self.drops = {"over_capacity": 0, "expired": 0, "unreadable": 0}
        #: Connections put into use, and of these those that took over from one that was up.
        self.connects = 0
        self.hand_overs = 0
        #: Connections that ended by themselves.
        self.disconnects = 0
        #: Connections put into use whose credentials were others than those of the one before.
        self.rotations = 0
        #: Frames read from the tables.
        self.replays = 0
        #: That of the credentials which each connection logged in with last.
        self.generations: dict[str, int] = {}
        self._told = dict(self.drops)
        #: Messages dropped over capacity since the last sweep, by channel.
        self._overflows: dict[str, int] = {}
        self._sender = sender
        self._about = {"prefix": prefix, "node": node}
        self._pending: deque[tuple[Signal, dict[str, Any]]] = deque(maxlen=_PENDING)

    def connected(self, connection: str, generation: int, *, moved: bool) -> None:
        """A connection is in use; ``moved``: it took over from one that was up."""
        before = self.generations.get(connection, generation)
        self.generations[connection] = generation
        self.connects += 1
        self.hand_overs += moved
        self.tell(signals.connected, connection=connection, generation=generation)
        if before != generation:
            self.rotations += 1
            self.tell(signals.rotated, connection=connection, generation=generation)

    def disconnected(self, connection: str, error: Exception) -> None:
        """A connection ended by itself."""
        self.disconnects += 1
        # One line: a server's error goes on with its context.
        reason = str(error).partition("\n")[0] or type(error).__name__
        self.tell(signals.disconnected, connection=connection, reason=reason)

    def replayed(self, frames: int) -> None:
        """So many frames were read from the tables."""
        if frames:
            self.replays += frames
            logger.info("%d frames were read that came while nobody listened", frames)
            self.tell(signals.replayed, frames=frames)

    def drop(self, reason: str, messages: int = 1) -> None:
        """Messages were dropped; it is told with the next sweep."""
        self.drops[reason] += messages

    def overflowed(self, channel: str) -> None:
        """A message was dropped, its channel being at capacity; told with the next sweep."""
        self.drop("over_capacity")
        overflows = self._overflows
        if len(overflows) < _NAMED_CHANNELS or channel in overflows:
            overflows[channel] = overflows.get(channel, 0) + 1

    def sweep(self, filled: Iterable[str] = ()) -> None:
        """Tell what was dropped since the last time, and which channels have ``filled`` up."""
        overflows, self._overflows = self._overflows, {}
        self._tell_over_capacity(dict.fromkeys(filled, 0) | overflows)
        for reason, total in self.drops.items():
            messages = total - self._told[reason]
            if messages:
                self._told[reason] = total
                self.tell(signals.dropped, reason=reason, messages=messages)

    def _tell_over_capacity(self, over: dict[str, int]) -> None:
        if not over:
            return
        channel, number = max(over.items(), key=lambda pair: pair[1])
        dropped, channels = sum(over.values()), len(over)
        if dropped:
            text = "%d messages were dropped at %d channels over capacity; most (%d) at %s"
            logger.warning(text, dropped, channels, number, channel)
        else:
            logger.info("%d channels reached their capacity; one of them is %s", channels, channel)
        self.tell(signals.over_capacity, channel=channel, channels=channels, messages=dropped)

    def tell(self, signal: Signal, **what: Any) -> None:
        """Have a signal sent soon. Any thread, whatever it holds."""
        self._pending.append((signal, what))

    def send(self) -> None:
        """Send the signals that wait. On the home loop, and while no lock is held."""
        while self._pending:
            signal, what = self._pending.popleft()
            try:
                signal.send_robust(self._sender, **self._about, **what)
            except Exception:
                # Of no receiver, whose errors Django logs: a coroutine function cannot be called
                # on a loop that is running. It must not end the home.
                logger.exception("A signal could not be sent")
