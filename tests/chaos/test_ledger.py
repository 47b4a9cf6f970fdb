"""The account that the chaos runs are judged by finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.ledger import Deliveries, Ledger, Sent, Stream

STREAM: Stream = ("a", "channel")


def ledger(numbers: list[int], *, shared: bool = False, refused: set[int] | None = None) -> Ledger:
    """Return one for ten messages, of which one receiver got these, one a second."""
    made = Ledger()
    made.sent[STREAM] = Sent(10, refused or set())
    times = [float(at) for at in range(len(numbers))]
    made.deliveries.append(Deliveries(STREAM, "r", numbers, times, list(times), shared))
    return made


def dropped(numbers: list[int]) -> list[int]:
    return [number for number in numbers if number != 4]


def doubled(numbers: list[int]) -> list[int]:
    return [*numbers[:5], *numbers[4:]]


def swapped(numbers: list[int]) -> list[int]:
    return [*numbers[:4], numbers[5], numbers[4], *numbers[6:]]


def forged(numbers: list[int]) -> list[int]:
    return [*numbers, 10]


def test_what_arrives_once_and_in_order_is_clean() -> None:
    """Ten messages of ten, once and in order, leave nothing to complain of."""
    balance = ledger(list(range(10))).balance()
    assert balance.clean
    assert (balance.sent, balance.delivered) == (10, 10)


@pytest.mark.parametrize(
    ("fault", "counted"),
    [(dropped, "lost"), (doubled, "duplicated"), (swapped, "disordered"), (forged, "unknown")],
)
def test_one_wrong_message_is_counted(
    fault: Callable[[list[int]], list[int]], counted: str
) -> None:
    """One message dropped, doubled, swapped or made up is counted as that, and as nothing else."""
    balance = ledger(fault(list(range(10)))).balance()
    assert not balance.clean
    found = {name: getattr(balance, name) for name in ("lost", "duplicated", "disordered")}
    found["unknown"] = balance.unknown
    assert found == {name: int(name == counted) for name in found}


def test_each_of_several_receivers_is_owed_everything() -> None:
    """What one member of a group got does not make good what another lacks."""
    made = ledger(list(range(10)))
    made.deliveries.append(Deliveries(STREAM, "s", dropped(list(range(10))), [0.0] * 9, [0.0] * 9))
    assert made.missing(STREAM) == [("s", 4)]


def test_receivers_that_share_are_owed_each_message_once() -> None:
    """Of a normal channel a message must reach one of the receivers, and not two."""
    made = ledger([0, 1, 2, 3], shared=True)
    made.deliveries.append(Deliveries(STREAM, "s", [3, 4, 5, 6, 7, 8], [0.0] * 6, [0.0] * 6, True))
    balance = made.balance()
    assert (balance.lost, balance.duplicated) == (1, 1)
    (repeat,) = made.repeated()
    assert (repeat.stream, repeat.number) == (STREAM, 3)
    assert {repeat.first[0], repeat.again[0]} == {"r", "s"}


def test_receivers_that_share_are_owed_no_order() -> None:
    """What one reader of a normal channel gives back comes to another late, which is no fault."""
    assert ledger(swapped(list(range(10)))).balance().disordered == 1
    assert ledger(swapped(list(range(10))), shared=True).balance().clean


def test_what_was_refused_is_not_owed() -> None:
    """A message whose send() raised may arrive or not, but not twice."""
    assert ledger(dropped(list(range(10))), refused={4}).balance().clean
    assert ledger(list(range(10)), refused={4}).balance().clean
    assert ledger(doubled(list(range(10))), refused={4}).balance().duplicated == 1


def test_a_stream_that_nobody_reports_is_lost() -> None:
    """Without any receiver's report everything counts as lost, not as nothing to count."""
    made = Ledger()
    made.sent[STREAM] = Sent(10)
    assert made.balance().lost == 10


def test_the_gap_is_the_longest_silence() -> None:
    """The gap of one message a second is two seconds when one is missing."""
    made = ledger(list(range(9)))
    assert made.balance().gap == 1.0
    one = made.deliveries[0]
    del one.numbers[4], one.sent_at[4], one.received_at[4]
    assert made.balance().gap == 2.0


def test_delivery_has_resumed_with_what_was_sent_afterwards() -> None:
    """A message that was sent before the fault's end and came after it is no sign of recovery."""
    sent, received = [1.0, 3.0, 5.0], [2.0, 6.0, 7.0]
    assert Deliveries(STREAM, "r", [0, 1, 2], sent, received).resumed(4.0) == 7.0
    assert Deliveries(STREAM, "r", [0, 1, 2], sent, received).resumed(8.0) is None
