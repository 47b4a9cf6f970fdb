"""What a node has seen of each sender."""

from __future__ import annotations

import pytest

from channels_pg_secrets.layer import listener
from channels_pg_secrets.layer.listener import Buffer, Watermarks
from pg_secrets.testing.clock import FakeClock


@pytest.fixture
def marks(clock: FakeClock) -> Watermarks:
    """Watermarks that keep ids for 100 seconds."""
    return Watermarks(100.0)


def test_only_what_is_above_the_mark_passes(marks: Watermarks) -> None:
    """A number at or below the highest seen is dropped, each sender for itself."""
    assert marks.passes(1, 5)
    marks.advance(1, 5)
    assert [marks.passes(1, number) for number in (4, 5, 6)] == [False, False, True]
    assert marks.passes(2, 1)
    assert marks.columns() == ([1], [5])


def test_senders_that_are_no_node_are_remembered_one_by_one(marks: Watermarks) -> None:
    """Random ids have no order; each passes once."""
    marks.advance(0, 900)
    assert [marks.passes(0, number) for number in (900, 899, 901)] == [False, True, True]
    assert marks.columns() == ([], [])


def test_number_zero_always_passes(marks: Watermarks) -> None:
    """What is not kept for replay has the number 0 and may come any number of times."""
    marks.advance(0, 0)
    assert marks.passes(0, 0)


def test_silent_senders_are_forgotten(marks: Watermarks, clock: FakeClock) -> None:
    """After an hour of silence a sender's mark goes; who speaks stays. Ids go before."""
    for sender in (1, 2):
        marks.advance(sender, 5)
    marks.advance(0, 900)
    clock.advance(1900)
    marks.advance(2, 6)
    marks.sweep()
    assert marks.columns() == ([1, 2], [5, 6])
    assert marks.passes(0, 900)
    clock.advance(1900)
    marks.sweep()
    assert marks.columns() == ([2], [6])


def test_remembered_ids_are_bounded(marks: Watermarks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest id goes first."""
    monkeypatch.setattr(listener, "_SEEN_IDS", 3)
    for number in (1, 2, 3, 4):
        marks.advance(0, number)
    assert [marks.passes(0, number) for number in (1, 2, 3, 4)] == [True, False, False, False]


def test_a_buffer_that_overflows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bytes a buffer keeps nothing and is marked as overflowed."""
    monkeypatch.setattr(listener, "_BUFFER_BYTES", 10)
    buffer = Buffer()
    buffer.add(b"12345")
    buffer.add(b"12345")
    assert (buffer.payloads, buffer.overflowed) == ([b"12345", b"12345"], False)
    buffer.add(b"1")
    assert (buffer.payloads, buffer.overflowed) == ([], True)
