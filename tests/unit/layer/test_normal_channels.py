"""Claims on normal channels: handed over once, or given back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Call
from channels_pg_secrets.layer.identity import Identity
from channels_pg_secrets.layer.normal_channels import Claimed, NormalChannels

ME = Identity("asgi")


@pytest.fixture
def channels() -> NormalChannels:
    """Readers whose publisher is the test."""
    return NormalChannels(lambda: None)


def next_call(channels: NormalChannels, statement: statements.Statement) -> Call:
    """Return the next statement, which must be that one."""
    call = channels.next_call(ME)
    assert call is not None
    assert call.statement is statement
    return call


async def taken(message: Claimed) -> Claimed:
    """Take a message as it is."""
    return message


async def waiting(channels: NormalChannels) -> asyncio.Task[Claimed]:
    """Return somebody who waits, with his reading registered."""
    task = asyncio.create_task(channels.get("work", taken))
    await asyncio.sleep(0)
    next_call(channels, statements.READ).done([])
    return task


async def cancelled(task: asyncio.Task[Claimed]) -> None:
    """Have somebody wait no more."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def settled(channels: NormalChannels) -> tuple[list[int], list[int]]:
    """Return the rows that are deleted and given back."""
    call = next_call(channels, statements.SETTLE)
    _, done, _, back, _, _ = call.values
    call.done([])
    return done, back


async def test_a_claim_is_handed_over_and_deleted(channels: NormalChannels) -> None:
    """Whoever waits gets the message, and its row is deleted afterwards."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    assert call.values[4] == 1
    call.done([(5, b"item", None)])
    claimed = await task
    assert (claimed.row, claimed.item) == (5, b"item")
    assert settled(channels) == ([5], [])
    assert channels.next_call(ME) is None


async def handed_over(channels: NormalChannels, row: int) -> int:
    """Hand over a message, whose row is not deleted yet; return its claim."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    call.done([(row, b"item", None)])
    await task
    return int(call.values[3])


async def again(channels: NormalChannels) -> asyncio.Task[Claimed]:
    """Return somebody who waits where it is known that somebody reads."""
    task = asyncio.create_task(channels.get("work", taken))
    await asyncio.sleep(0)
    return task


async def test_the_next_claim_deletes_what_was_handed_over(channels: NormalChannels) -> None:
    """Whoever comes back for the next message costs no statement of its own for the last one."""
    claim = await handed_over(channels, 5)
    task = await again(channels)
    call = next_call(channels, statements.CLAIM)
    assert call.values[5:] == ([5], [claim])
    call.done([(6, b"item", None)])
    assert (await task).row == 6
    assert settled(channels) == ([6], [])
    assert not channels.unsettled


@pytest.mark.parametrize("lost", [True, False])
async def test_what_a_failed_claim_was_to_delete_is_deleted(
    channels: NormalChannels, lost: bool
) -> None:
    """A claim that is in doubt or refused has deleted nothing, as far as anybody knows."""
    await handed_over(channels, 5)
    task = await again(channels)
    call = next_call(channels, statements.CLAIM)
    if lost:
        call.in_doubt()
        assert next_call(channels, statements.CLAIM).values[5] == [5]
    else:
        call.refused(RuntimeError("no"))
        assert settled(channels) == ([5], [])
    await cancelled(task)


async def test_a_claim_in_flight_when_its_home_ends_has_deleted_nothing(
    channels: NormalChannels,
) -> None:
    """The next home deletes what the last one's claim was to, as nobody will hear its answer."""
    await handed_over(channels, 5)
    task = await again(channels)
    next_call(channels, statements.CLAIM)
    channels.recover()
    next_call(channels, statements.CLAIMS).done([])
    assert next_call(channels, statements.CLAIM).values[5] == [5]
    await cancelled(task)


async def test_what_is_given_back_does_not_wait_for_a_claim(channels: NormalChannels) -> None:
    """Others may be waiting for it, so it goes first."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    await cancelled(task)
    call.done([(5, b"item", None)])
    task = await again(channels)
    assert settled(channels) == ([], [5])
    next_call(channels, statements.CLAIM)
    await cancelled(task)


async def test_whoever_does_not_come_back_has_his_message_deleted_at_once() -> None:
    """The publisher is told of a message that was handed over, though nobody asks for the next."""
    told: list[bool] = []
    channels = NormalChannels(lambda: told.append(True))
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    told.clear()
    call.done([(5, b"item", None)])
    await task
    assert told
    assert settled(channels) == ([5], [])


async def test_what_nobody_waits_for_is_given_back(channels: NormalChannels) -> None:
    """A claim whose receiver was cancelled meanwhile is given back, not deleted."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    await cancelled(task)
    call.done([(5, b"item", None)])
    assert settled(channels) == ([], [5])


async def test_a_receiver_cancelled_after_the_hand_over_gives_back(
    channels: NormalChannels,
) -> None:
    """A receiver that is cancelled when the message is his but not yet returned gives it back."""
    task = await waiting(channels)
    next_call(channels, statements.CLAIM).done([(5, b"item", None)])
    await cancelled(task)
    assert settled(channels) == ([], [5])


async def test_a_receiver_cancelled_on_the_way_to_his_loop_gives_back(
    channels: NormalChannels,
) -> None:
    """The same where another thread hands over, and the result has not reached the loop yet."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    thread = threading.Thread(target=call.done, args=([(5, b"item", None)],))
    thread.start()
    thread.join()
    await cancelled(task)
    assert settled(channels) == ([], [5])


async def test_a_lost_reply_is_looked_for(channels: NormalChannels) -> None:
    """After a reconnect, claims of this node that it does not know are given back."""
    task = await waiting(channels)
    next_call(channels, statements.CLAIM).in_doubt()
    channels.reconnected()
    next_call(channels, statements.CLAIMS).done([(5, "work", 77)])
    call = next_call(channels, statements.SETTLE)
    assert call.values[3:5] == ([5], [77])
    call.done([])
    next_call(channels, statements.CLAIM)
    await cancelled(task)


async def test_what_is_held_is_not_taken_for_lost(channels: NormalChannels) -> None:
    """A claim that was handed over and is not yet deleted is not given back."""
    task = await waiting(channels)
    call = next_call(channels, statements.CLAIM)
    claim = call.values[3]
    call.done([(5, b"item", None)])
    await task
    channels.reconnected()
    next_call(channels, statements.CLAIMS).done([(5, "work", claim)])
    assert settled(channels) == ([5], [])


async def test_a_channel_that_nobody_reads_any_more_is_left(channels: NormalChannels) -> None:
    """The database forgets a reader that is gone, unless somebody has begun to read again."""
    task = await waiting(channels)
    await cancelled(task)
    channels.look_again()
    call = next_call(channels, statements.SETTLE)
    assert call.values[5] == ["work"]
    again = await waiting(channels)
    call.in_doubt()
    assert next_call(channels, statements.SETTLE).values[5] == []
    await cancelled(again)


async def test_busy_channels_take_turns_with_quiet_ones(channels: NormalChannels) -> None:
    """However much waits in two channels, the third is claimed from after at most two claims."""
    names = ("busy", "busier", "quiet")
    tasks = [asyncio.create_task(channels.get(name, taken)) for name in names]
    await asyncio.sleep(0)
    for _ in names:
        next_call(channels, statements.READ).done([])
    claimed: list[str] = []
    for _ in names:
        call = next_call(channels, statements.CLAIM)
        claimed.append(call.values[2])
        call.in_doubt()  # there may be more: it wants to be called at once again
    assert sorted(claimed) == sorted(names)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_settlement_in_doubt_is_made_again(channels: NormalChannels) -> None:
    """A deletion whose reply was lost is sent once more with the same rows."""
    task = await waiting(channels)
    next_call(channels, statements.CLAIM).done([(5, b"item", None)])
    await task
    next_call(channels, statements.SETTLE).in_doubt()
    assert settled(channels) == ([5], [])


async def test_readers_are_entered_again_after_the_database_forgot(
    channels: NormalChannels,
) -> None:
    """When the tables were emptied a waiting reader registers before it claims."""
    task: Any = await waiting(channels)
    next_call(channels, statements.CLAIM).done([])
    assert channels.next_call(ME) is None
    channels.forgotten()
    channels.announced("work")
    next_call(channels, statements.READ)
    await cancelled(task)
