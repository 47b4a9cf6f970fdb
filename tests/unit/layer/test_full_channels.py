"""Which channels are full, and what is written of it."""

from __future__ import annotations

import pytest

from channels_pg_secrets.layer import full_channels
from channels_pg_secrets.layer.call import Call
from channels_pg_secrets.layer.full_channels import FullChannels
from channels_pg_secrets.layer.identity import Identity


class Told:
    """Counts how often somebody was told."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def full(told: Told) -> FullChannels:
    return FullChannels(told)


IDENTITY = Identity("asgi")


def next_call(full: FullChannels) -> Call:
    """Return the next statement, which must be there."""
    call = full.next_call(IDENTITY)
    assert call is not None
    return call


def written(full: FullChannels) -> tuple[int, list[str]]:
    """Carry out the next statement, and return its version and channels."""
    call = next_call(full)
    assert call.done([(0,)])
    return call.values[2], call.values[3]


def test_nothing_is_written_while_nothing_is_full(full: FullChannels) -> None:
    """A process none of whose channels was ever full costs no statement."""
    assert full.next_call(IDENTITY) is None
    full.clear()
    assert full.next_call(IDENTITY) is None


def test_the_row_follows(full: FullChannels) -> None:
    """Each change is written once, as all that is full now, and numbered."""
    full.add("a")
    full.add("b")
    assert written(full) == (1, ["a", "b"])
    assert full.next_call(IDENTITY) is None
    full.discard("a")
    assert written(full) == (2, ["b"])
    full.clear()
    assert written(full) == (3, [])
    assert full.next_call(IDENTITY) is None


def test_what_fills_and_drains_meanwhile_is_not_written(full: FullChannels) -> None:
    """A channel that has room again before its turn costs no statement."""
    full.add("a")
    full.discard("a")
    assert full.next_call(IDENTITY) is None


def test_what_changes_in_flight_is_written_next(full: FullChannels) -> None:
    """A channel that drains while its filling up is written gets a statement of its own."""
    full.add("a")
    call = next_call(full)
    full.discard("a")
    call.done([(0,)])
    assert written(full) == (2, [])


@pytest.mark.parametrize("how", ["in doubt", "recover", "unknown"])
def test_what_may_be_lost_is_written_again(full: FullChannels, how: str) -> None:
    """After a broken connection, a new home or an unknown node the state is written again."""
    full.add("a")
    call = next_call(full)
    if how == "in doubt":
        call.in_doubt()
    elif how == "recover":
        full.recover()
    else:
        assert not call.done([(1,)])
        call.in_doubt()
    assert written(full) == (2, ["a"])


def test_recovering_from_nothing_writes_nothing(full: FullChannels) -> None:
    """A new home costs no statement where none was in flight."""
    full.add("a")
    written(full)
    full.recover()
    assert full.next_call(IDENTITY) is None


def test_a_new_row_is_written_even_with_nothing(full: FullChannels) -> None:
    """After re-registration "nothing is full" is written too: it outruns earlier statements."""
    full.forgotten()
    assert written(full) == (1, [])
    assert full.next_call(IDENTITY) is None


def test_a_refusal_is_not_repeated_for_ever(full: FullChannels) -> None:
    """What the server will not have waits for the next change."""
    full.add("a")
    next_call(full).refused(RuntimeError("no"))
    assert not full.waiting
    full.add("b")
    assert written(full) == (2, ["a", "b"])


def test_names_are_bounded(full: FullChannels, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than MAX_NAMES are written, and the next moves up when one drains."""
    monkeypatch.setattr(full_channels, "MAX_NAMES", 2)
    for channel in "abc":
        full.add(channel)
    assert written(full)[1] == ["a", "b"]
    full.discard("a")
    assert written(full)[1] == ["b", "c"]


def test_telling_happens_once_for_many_changes(full: FullChannels, told: Told) -> None:
    """tell() calls back when something changed since the last time, and only then."""
    full.tell()
    full.add("a")
    full.add("b")
    full.tell()
    full.tell()
    assert told.times == 1
