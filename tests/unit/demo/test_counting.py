"""How the demo knows what got lost."""

from __future__ import annotations

import pytest

from channels_pg_secrets.demo.ledger import Ledger
from channels_pg_secrets.demo.project.sequences import SequenceTracker


@pytest.mark.parametrize(
    ("numbers", "lost", "repeated"),
    [
        ([1, 2, 3], 0, 0),
        ([7, 8, 9], 0, 0),
        ([1, 2, 5], 2, 0),
        ([1, 2, 2], 0, 1),
        ([1, 2, 3, 1], 0, 1),
        ([4, 6, 5, 7], 1, 1),
    ],
)
def test_gaps_are_losses(numbers: list[int], lost: int, repeated: int) -> None:
    """A skipped number counts as lost, one seen before as repeated, the first as neither."""
    tracker = SequenceTracker()
    seen = [tracker.see("ada", number) for number in numbers]
    assert (sum(gap for gap, _ in seen), sum(twice for _, twice in seen)) == (lost, repeated)


def test_senders_are_counted_apart() -> None:
    """Another sender's numbers make no gap."""
    tracker = SequenceTracker()
    assert [tracker.see("ada", 1), tracker.see("grace", 40), tracker.see("ada", 2)] == [(0, 0)] * 3


def test_forgotten_senders_begin_anew() -> None:
    """No more than the given number of senders is remembered, the quietest goes first."""
    tracker = SequenceTracker(senders=2)
    for sender in ("ada", "grace", "alan"):
        tracker.see(sender, 1)
    assert tracker.see("ada", 5) == (0, 0)
    assert tracker.see("alan", 5) == (3, 0)


@pytest.fixture
def ledger() -> Ledger:
    """Two rooms, three people."""
    return Ledger({"lobby": frozenset({"ada", "grace"}), "garden": frozenset({"alan"})})


def test_everything_due_is_lost_until_it_arrives(ledger: Ledger) -> None:
    """A message counts as lost once for each receiver of its room that has not got it."""
    ledger.send("m1", "lobby", 10.0)
    assert (ledger.sent, ledger.lost, ledger.received) == (1, 2, 0)
    ledger.receive("m1", "ada", 10.5)
    assert (ledger.lost, ledger.received) == (1, 1)
    ledger.receive("m1", "grace", 10.5)
    assert (ledger.lost, ledger.received) == (0, 2)
    assert ledger.delay_ms(0.5) == 500.0


def test_a_second_copy_is_a_duplicate(ledger: Ledger) -> None:
    """A delivery that was not due any more, or never was, counts as duplicated."""
    ledger.send("m1", "lobby", 10.0)
    for name in ("ada", "ada", "alan"):
        ledger.receive("m1", name, 10.1)
    assert (ledger.received, ledger.duplicated, ledger.lost) == (1, 2, 1)


def test_nobody_waits_for_what_was_refused(ledger: Ledger) -> None:
    """A message the server refused is neither sent nor lost."""
    ledger.send("m1", "lobby", 10.0)
    ledger.refuse("m1")
    assert (ledger.sent, ledger.lost, ledger.refused) == (0, 0, 1)


def test_strange_messages_are_noticed(ledger: Ledger) -> None:
    """A message nobody entered as sent does not count as received."""
    ledger.receive("stray", "ada", 10.0)
    assert (ledger.unknown, ledger.received) == (1, 0)
