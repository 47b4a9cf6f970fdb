"""What each channel must hold, by the specification and by what this layer promises beyond it.

Plain Python that knows nothing of the layer. Where several outcomes are allowed (a message that is
still on its way when its channel fills up, a join that races a message) a delivery says which, and
time is counted in ticks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Delivery:
    """One message in one channel."""

    number: int
    sender: int
    #: Grows whenever everything has settled.
    era: int
    tick: int
    #: False: it may have been passed over.
    certain: bool = True
    #: It has its place in the channel; else it may still be on its way.
    arrived: bool = False
    #: There is room for it, whatever else is on its way.
    room: bool = True
    #: The channel is full, so that it is passed over unless somebody receives before it arrives.
    doomed: bool = False


@dataclass(eq=False)
class Channel:
    """One channel: its messages, and how sure we are of them."""

    name: str
    #: The node that receives on it; None: any, it is a normal channel.
    owner: int | None
    capacity: int
    waiting: list[Delivery] = field(default_factory=list)
    #: How many receives are pending.
    receivers: int = 0
    #: A claim of a normal channel may be on its way back: what comes after it may overtake it.
    unordered: bool = False
    #: It may have been full, and not have fallen to half of that since: others may be refused.
    refuses: bool = False
    #: Its node was closed.
    gone: bool = False

    @property
    def least(self) -> int:
        """At least as many messages fill the channel."""
        if self.receivers or self.unordered:
            return 0
        return sum(d.certain and d.arrived for d in self.waiting)

    @property
    def relieved(self) -> bool:
        """It has certainly fallen to half of its capacity, so that it takes from everybody."""
        return len(self.waiting) <= self.capacity // 2

    @property
    def expects(self) -> bool:
        """A receive must return."""
        return any(d.certain for d in self.waiting)

    def add(self, delivery: Delivery) -> None:
        """A message is on its way here."""
        delivery.doomed = self.least >= self.capacity
        self.waiting.append(delivery)
        self.refuses |= len(self.waiting) >= self.capacity
        if len(self.waiting) > self.capacity:
            for other in self.waiting:
                if not other.arrived:
                    other.certain = other.room = False

    def accepted(self, delivery: Delivery) -> None:
        """Its sender was told that it has its place."""
        assert not delivery.doomed, f"{self.name} took {delivery} above its capacity"
        delivery.certain = delivery.arrived = True

    def refused(self, delivery: Delivery) -> None:
        """Its sender was told that the channel is full."""
        held_back = self.refuses and self.owner not in (None, delivery.sender)
        assert held_back or not delivery.room, (
            f"{self.name} refused {delivery} though there was room"
        )
        self.waiting.remove(delivery)

    def took(self, numbers: Iterable[int]) -> None:
        """These were received, in this order or at the same time by several receivers."""
        left = list(numbers)
        while left:
            number = next((n for n in left if self._may_come(n)), None)
            assert number is not None, (
                f"{self.name} yielded {left} (lost before it, out of order, twice, or not for it);"
                f" it holds {self.waiting}"
            )
            left.remove(number)
            self._remove(number)

    def emptied(self) -> None:
        """All has settled, and a receive finds nothing."""
        lost = [d for d in self.waiting if d.certain]
        assert not lost, f"{self.name} has lost {lost}"
        self.waiting.clear()

    def settle(self) -> None:
        """Nothing is on its way any more."""
        self.waiting = [d for d in self.waiting if not d.doomed]
        for delivery in self.waiting:
            delivery.arrived = delivery.certain
        self.unordered = False
        self.refuses &= not self.relieved

    def _may_come(self, number: int) -> bool:
        found = self._find(number)
        return (
            found is not None
            and not found.doomed
            and not any(d.certain for d in self._before(found))
        )

    def _find(self, number: int) -> Delivery | None:
        return next((d for d in self.waiting if d.number == number), None)

    def _before(self, delivery: Delivery) -> list[Delivery]:
        if self.unordered and self.owner is None:
            return []
        return [d for d in self.waiting if self._precedes(d, delivery)]

    def _precedes(self, one: Delivery, other: Delivery) -> bool:
        if one.era != other.era:
            return one.era < other.era
        if one.sender != other.sender:
            return False
        return one.number < other.number

    def _remove(self, number: int) -> None:
        found = self._find(number)
        assert found is not None
        # What was to come before it and has not come was passed over.
        passed_over = self._before(found)
        self.waiting = [d for d in self.waiting if d is not found and d not in passed_over]
        for delivery in self.waiting:
            delivery.doomed = False


class Model:
    """All channels and groups of one layer. ``message_life`` and ``group_life`` are in ticks."""

    def __init__(self, *, capacity: int, message_life: int, group_life: int) -> None:
        self.channels: dict[str, Channel] = {}
        #: group -> channel -> tick of the latest join
        self.groups: dict[str, dict[str, int]] = {}
        self._capacity = capacity
        self._message_life = message_life
        self._group_life = group_life
        self._numbers = itertools.count(1)
        self._tick = self._era = 0

    def channel(self, name: str, owner: int | None) -> Channel:
        """A channel is there from now on."""
        made = self.channels[name] = Channel(name, owner, self._capacity)
        return made

    def next_number(self) -> int:
        """Return the number of the next message."""
        return next(self._numbers)

    def send(self, number: int, sender: int, channel: Channel) -> Delivery:
        """A message is sent to a channel; whether that has taken it is said afterwards."""
        delivery = self._delivery(number, sender)
        if not channel.gone:
            channel.add(delivery)
        return delivery

    def group_send(self, number: int, sender: int, group: str) -> list[tuple[Channel, Delivery]]:
        """A message is sent to a group; returns what its members get, or may get."""
        sent = []
        for name in self.members(group):
            channel = self.channels[name]
            delivery = self._delivery(number, sender)
            channel.add(delivery)
            if channel.owner == sender:  # at once
                if delivery.doomed:
                    channel.waiting.remove(delivery)
                delivery.arrived = delivery.certain
            sent.append((channel, delivery))
        return sent

    def returned(self, channel: Channel, delivery: Delivery) -> None:
        """A group's message is published; in a normal channel it has its place."""
        if channel.owner is None and not delivery.doomed:
            delivery.arrived = delivery.certain

    def may_get(self, number: int, sender: int, channel: Channel) -> Delivery:
        """A message to a group races the channel's join or leave."""
        delivery = self._delivery(number, sender)
        channel.add(delivery)
        delivery.certain = False
        return delivery

    def join(self, group: str, channel: Channel) -> None:
        """A channel is in a group from now on."""
        if not channel.gone:
            self.groups.setdefault(group, {})[channel.name] = self._tick

    def leave(self, group: str, channel: Channel) -> None:
        """A channel is not in a group any more."""
        self.groups.get(group, {}).pop(channel.name, None)

    def members(self, group: str) -> list[str]:
        """The channels in a group."""
        since = self._tick - self._group_life
        return [name for name, joined in self.groups.get(group, {}).items() if joined > since]

    def settle(self) -> None:
        """Nothing is on its way any more."""
        self._era += 1
        for channel in self.channels.values():
            channel.settle()

    def tick(self) -> None:
        """Time passes; all has settled before."""
        self._tick += 1
        since = self._tick - self._message_life
        for channel in self.channels.values():
            channel.waiting = [d for d in channel.waiting if d.tick > since]

    def flush(self) -> None:
        """No messages, no groups."""
        self.groups.clear()
        for channel in self.channels.values():
            channel.waiting.clear()

    def close(self, node: int) -> None:
        """A node leaves, and its channels with it."""
        for channel in self.channels.values():
            if channel.owner == node:
                channel.gone = True
                channel.waiting.clear()
                for group in self.groups:
                    self.leave(group, channel)

    def doubt_claims(self) -> None:
        """Answers may have been lost: claims of normal channels may be on their way back."""
        for channel in self.channels.values():
            channel.unordered = channel.owner is None

    def _delivery(self, number: int, sender: int) -> Delivery:
        return Delivery(number, sender, self._era, self._tick)
