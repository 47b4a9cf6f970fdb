"""Keeps account of every message of a run: what was sent, and what came of it.

A *stream* is one sender and one destination; its messages are numbered from 0. Only what the layer
took is owed: a ``send()`` that raised may or may not arrive, and no more than once. Receivers that
share a destination are owed no order: what one of them claims and gives back comes to another late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

#: Sender and destination.
Stream = tuple[str, str]


@dataclass
class Sent:
    """What one stream sent. ``refused`` are the numbers whose ``send()`` raised."""

    count: int = 0
    refused: set[int] = field(default_factory=set)

    @property
    def owed(self) -> set[int]:
        """Numbers that must arrive."""
        return set(range(self.count)) - self.refused


@dataclass
class Deliveries:
    """What one receiver got of one stream, in the order in which it came.

    ``sent_at`` and ``received_at`` are on the machine's monotonic clock, the same for all
    processes. ``shared``: each message goes to one of the destination's receivers, not to all.
    """

    stream: Stream
    receiver: str
    numbers: list[int]
    sent_at: list[float]
    received_at: list[float]
    shared: bool = False

    def out_of_order(self) -> list[int]:
        """Return the numbers that came after a greater one; what is repeated counts once."""
        numbers = list(dict.fromkeys(self.numbers))
        return [later for earlier, later in pairwise(numbers) if later < earlier]

    def resumed(self, since: float) -> float | None:
        """When the first message arrived that was sent at ``since`` or later."""
        for sent, received in zip(self.sent_at, self.received_at, strict=True):
            if sent >= since:
                return received
        return None


class Repeat(NamedTuple):
    """One message that came again: who got it first, and who again, so long after it was sent."""

    stream: Stream
    number: int
    first: tuple[str, float]
    again: tuple[str, float]


@dataclass(frozen=True)
class Balance:
    """How a run ended. ``gap``: the longest time in seconds without a message at a receiver."""

    sent: int
    refused: int
    delivered: int
    lost: int
    duplicated: int
    disordered: int
    unknown: int
    gap: float

    @property
    def clean(self) -> bool:
        """All that is owed came, once, in order, and nothing else."""
        return not (self.lost or self.duplicated or self.disordered or self.unknown)


class Ledger:
    """All streams of one run."""

    def __init__(self) -> None:
        self.sent: dict[Stream, Sent] = {}
        self.deliveries: list[Deliveries] = []

    def balance(self) -> Balance:
        """Count. Every destination must have at least one receiver that reported."""
        received = [number for each in self.deliveries for number in each.numbers]
        return Balance(
            sent=sum(sent.count for sent in self.sent.values()),
            refused=sum(len(sent.refused) for sent in self.sent.values()),
            delivered=len(received),
            lost=sum(len(self.missing(stream)) for stream in self.sent),
            duplicated=len(self.repeated()),
            disordered=sum(len(each.out_of_order()) for each in self.deliveries if not each.shared),
            unknown=sum(self._unknown(each) for each in self.deliveries),
            gap=max((_gap(times) for times in self._times().values()), default=0.0),
        )

    def missing(self, stream: Stream) -> list[tuple[str, int]]:
        """Receivers of a stream with the numbers that are still owed to them."""
        owed = self.sent[stream].owed
        found = []
        for receiver, numbers in self._received(stream).items():
            found += [(receiver, number) for number in sorted(owed - set(numbers))]
        return found

    def _received(self, stream: Stream) -> dict[str, list[int]]:
        """Numbers by receiver; where receivers share a stream, all of them count as one."""
        found: dict[str, list[int]] = {}
        for each in self.deliveries:
            if each.stream == stream:
                found.setdefault("any" if each.shared else each.receiver, []).extend(each.numbers)
        return found or {"nobody": []}

    def repeated(self) -> list[Repeat]:
        """Return what came more than once, one for each time but the first."""
        first: dict[tuple[Stream, str, int], tuple[str, float]] = {}
        repeats = []
        arrivals = [
            (came, sent, number, each)
            for each in self.deliveries
            for number, sent, came in zip(each.numbers, each.sent_at, each.received_at, strict=True)
        ]
        for came, sent, number, each in sorted(arrivals, key=lambda arrival: arrival[0]):
            key = (each.stream, "any" if each.shared else each.receiver, number)
            if key not in first:
                first[key] = each.receiver, came - sent
            else:
                repeats.append(
                    Repeat(each.stream, number, first[key], (each.receiver, came - sent))
                )
        return repeats

    def _unknown(self, each: Deliveries) -> int:
        count = self.sent[each.stream].count if each.stream in self.sent else 0
        return sum(not 0 <= number < count for number in each.numbers)

    def _times(self) -> dict[tuple[str, str], list[float]]:
        """When messages came, by receiver (those who share count as one) and destination."""
        found: dict[tuple[str, str], list[float]] = {}
        for each in self.deliveries:
            receiver = "any" if each.shared else each.receiver
            found.setdefault((receiver, each.stream[1]), []).extend(each.received_at)
        return found


def _gap(times: list[float]) -> float:
    ordered = sorted(times)
    return max((later - earlier for earlier, later in pairwise(ordered)), default=0.0)
