"""Which channels are in which groups, and what the database is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer.membership import Change, Memberships
from pg_secrets.testing.clock import FakeClock


@pytest.fixture
def members(clock: FakeClock) -> Memberships:
    """Memberships that last 100 seconds."""
    return Memberships(100.0, lambda channel: 7)


def written(members: Memberships, clock: FakeClock) -> list[tuple[str, str, bool, int]]:
    """Write what there is to write, and return it."""
    change = members.take_dirty()
    if change is None:
        return []
    change.begun = clock.monotonic()
    members.written(change)
    groups, channels, present, foreign, _ = change.columns()
    return list(zip(groups, channels, present, foreign, strict=True))


def taken(members: Memberships) -> Change:
    """Take a change that must be there."""
    change = members.take_dirty()
    assert change is not None
    return change


async def test_the_first_add_writes_a_row_and_the_next_does_not(
    members: Memberships, clock: FakeClock
) -> None:
    """One row stands for all of a process's members of a group."""
    first = members.add("g", "a", local=True)
    assert first is not None
    assert written(members, clock) == [("g", "", True, 0)]
    assert first.done()
    assert members.add("g", "b", local=True) is None
    assert sorted(members.local_members("g")) == ["a", "b"]
    assert written(members, clock) == []


async def test_an_adder_waits_for_its_groups_flush(members: Memberships, clock: FakeClock) -> None:
    """Whoever adds while the row is being written waits for the next write."""
    members.add("g", "a", local=True)
    change = taken(members)
    second = members.add("g", "b", local=True)
    members.written(change)
    assert second is not None
    assert not second.done()
    assert written(members, clock) == [("g", "", True, 0)]
    assert second.done()


async def test_the_last_discard_deletes_the_row(members: Memberships, clock: FakeClock) -> None:
    """The row goes when the last member has left, and nothing is remembered."""
    for channel in "ab":
        members.add("g", channel, local=True)
    written(members, clock)
    members.discard("g", "a", local=True)
    assert written(members, clock) == []
    members.discard("g", "b", local=True)
    assert written(members, clock) == [("g", "", False, 0)]
    assert members._rows == {}


async def test_discard_and_add_are_written_as_one_state(
    members: Memberships, clock: FakeClock
) -> None:
    """A leave and a join before the next write leave a row."""
    members.add("g", "a", local=True)
    written(members, clock)
    members.discard("g", "a", local=True)
    added = members.add("g", "a", local=True)
    assert added is not None
    assert written(members, clock) == [("g", "", True, 0)]


def test_discarding_a_stranger_writes_nothing(members: Memberships, clock: FakeClock) -> None:
    """A channel that is in no group leaves without a word."""
    assert members.discard("g", "a", local=True) is None
    assert written(members, clock) == []


async def test_membership_lasts_from_the_latest_add(members: Memberships, clock: FakeClock) -> None:
    """A member is in until group_expiry after it was added last, and the row is renewed for it."""
    members.add("g", "a", local=True)
    written(members, clock)
    clock.advance(60)
    assert members.add("g", "a", local=True) is not None
    assert written(members, clock) == [("g", "", True, 0)]
    clock.advance(99)
    assert members.local_members("g") == ["a"]
    clock.advance(1)
    assert members.local_members("g") == []
    members.sweep()
    assert written(members, clock) == [("g", "", False, 0)]


async def test_a_replayed_message_is_for_those_who_were_in_then(
    members: Memberships, clock: FakeClock
) -> None:
    """Who joined after a message was sent does not get it in a replay."""
    members.add("g", "early", local=True)
    clock.advance(10)
    members.add("g", "late", local=True)
    clock.advance(10)
    assert members.local_members("g", 15.0) == ["early"]
    assert sorted(members.local_members("g", 5.0)) == ["early", "late"]


async def test_adding_again_does_not_change_when_one_joined(
    members: Memberships, clock: FakeClock
) -> None:
    """A member that is added again still gets what was sent before that."""
    members.add("g", "a", local=True)
    clock.advance(10)
    members.add("g", "a", local=True)
    assert members.local_members("g", 5.0) == ["a"]


async def test_joins_of_others_are_counted_until_the_row_goes(
    members: Memberships, clock: FakeClock
) -> None:
    """The delete says how many joins of others this process has heard of, once."""
    members.joined_from_elsewhere("g", "a")
    members.joined_from_elsewhere("g", "b")
    assert sorted(members.local_members("g")) == ["a", "b"]
    written(members, clock)
    for channel in "ab":
        members.discard("g", channel, local=True)
    assert written(members, clock) == [("g", "", False, 2)]
    members.joined_from_elsewhere("g", "a")
    written(members, clock)
    members.discard("g", "a", local=True)
    assert written(members, clock) == [("g", "", False, 1)]


async def test_what_failed_is_written_again(members: Memberships, clock: FakeClock) -> None:
    """After failed() the state of that moment is written, and the adder still waits."""
    added = members.add("g", "a", local=True)
    change = taken(members)
    members.discard("g", "a", local=True)
    members.failed(change)
    assert added is not None
    assert not added.done()
    assert written(members, clock) == [("g", "", False, 0)]
    assert added.done()


async def test_recover_takes_up_what_was_in_flight(members: Memberships, clock: FakeClock) -> None:
    """A change whose home has gone is written by the next."""
    members.add("g", "a", local=True)
    taken(members)
    assert written(members, clock) == []
    members.recover()
    assert written(members, clock) == [("g", "", True, 0)]
    members.recover()
    assert written(members, clock) == []


async def test_an_abandoned_change_tells_its_adder(members: Memberships) -> None:
    """What the database will not have is an error for whoever waits for it."""
    added: Any = members.add("g", "a", local=True)
    members.abandoned(taken(members), ChannelLayerUnavailable("no"))
    assert isinstance(added.exception(), ChannelLayerUnavailable)
    assert members.add("g", "a", local=True) is not None


async def test_late_adders_are_told_and_the_change_stays(
    members: Memberships, clock: FakeClock
) -> None:
    """Whoever has waited too long fails; what was wanted is still written."""
    late: Any = members.add("g", "a", local=True)
    clock.advance(5)
    patient: Any = members.add("h", "a", local=True)
    members.fail_waiters(ChannelLayerUnavailable("late"), clock.monotonic() - 1)
    assert isinstance(late.exception(), ChannelLayerUnavailable)
    assert not patient.done()
    assert len(written(members, clock)) == 2


async def test_forgotten_rows_are_all_written_again(members: Memberships, clock: FakeClock) -> None:
    """When the database has lost our rows, every group with members is written."""
    for group in "gh":
        members.add(group, "a", local=True)
    members.joined_from_elsewhere("g", "b")
    written(members, clock)
    members.forgotten()
    assert sorted(written(members, clock)) == [("g", "", True, 0), ("h", "", True, 0)]


async def test_clearing_forgets_and_lets_go(members: Memberships, clock: FakeClock) -> None:
    """After a flush there are no members, nothing to write, and nobody waits."""
    waiting = members.add("g", "a", local=True)
    members.clear()
    assert waiting is not None
    assert waiting.done()
    assert members.local_members("g") == []
    assert written(members, clock) == []


# Normal channels: the row is everybody's, not this process's -------------------------------


async def test_a_normal_channel_has_a_row_of_its_own(
    members: Memberships, clock: FakeClock
) -> None:
    """The row names the channel and carries its capacity."""
    members.add("g", "work", local=False)
    change = taken(members)
    assert change.columns() == (["g"], ["work"], [True], [0], [7])


async def test_every_add_of_a_normal_channel_is_written(
    members: Memberships, clock: FakeClock
) -> None:
    """Another process may have discarded it meanwhile, so the second add is written as well."""
    members.add("g", "work", local=False)
    written(members, clock)
    assert members.add("g", "work", local=False) is not None
    assert written(members, clock) == [("g", "work", True, 0)]


async def test_an_expired_normal_channel_is_left_to_the_database(
    members: Memberships, clock: FakeClock
) -> None:
    """Another process may have added it since, so expiry here deletes no row."""
    members.add("g", "work", local=False)
    written(members, clock)
    clock.advance(100)
    members.sweep()
    assert written(members, clock) == []


async def test_a_strangers_normal_channel_can_be_discarded(
    members: Memberships, clock: FakeClock
) -> None:
    """A discard of what another process added is written, and waited for."""
    waiting = members.discard("g", "work", local=False)
    assert waiting is not None
    assert written(members, clock) == [("g", "work", False, 0)]
    assert waiting.done()


async def test_many_changes_are_written_in_chunks(
    members: Memberships, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement writes at most CHUNK rows, and the rest follows."""
    monkeypatch.setattr("channels_pg_secrets.layer.membership.CHUNK", 3)
    futures = [members.add(f"g{n}", "a", local=True) for n in range(7)]
    assert [len(written(members, clock)) for _ in range(4)] == [3, 3, 1, 0]
    assert all(future is not None and future.done() for future in futures)
    await asyncio.sleep(0)
