"""Tells, from numbers alone, what got lost on the way or came twice."""

from __future__ import annotations

from collections import OrderedDict


class SequenceTracker:
    """Follows the numbered messages of many senders, as one receiver sees them.

    The layer keeps the order of one sender's messages, so a number that is skipped is a message
    lost, and one seen before a message repeated. The first number of a sender is where it starts.
    At most ``senders`` are remembered, those unheard of for longest are forgotten.
    """

    def __init__(self, senders: int = 1000) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()
        self._senders = senders

    def see(self, sender: str, number: int) -> tuple[int, int]:
        """Take note of a message and return how many it shows to be lost, and repeated."""
        last = self._last.get(sender, number - 1)
        if number <= last:
            return 0, 1
        self._last[sender] = number
        self._last.move_to_end(sender)
        if len(self._last) > self._senders:
            self._last.popitem(last=False)
        return number - last - 1, 0
