"""Faults of the processes that send and receive, under load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from channels_pg_secrets.layer.supervisor import HEARTBEAT, STALE
from pg_secrets.testing.process import frozen
from tests.chaos.ledger import Sent
from tests.chaos.load import DESTINATIONS, Limits, Load

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

NODES = "SELECT count(*) FROM channels_pg_secrets_node WHERE prefix = %s"
MEMBERS = "SELECT count(*) FROM channels_pg_secrets_member WHERE prefix = %s AND node <> 0"
#: As if the nodes beside these had been silent for long enough to count as gone.
SILENCE = """
    UPDATE channels_pg_secrets_node SET seen = seen - interval '1 hour'
    WHERE prefix = %s AND NOT to_hex(id) = ANY(%s)
"""
#: As if somebody had been there to hear them for all that time.
AWAKE = "UPDATE channels_pg_secrets_state SET awake = awake - interval '1 hour'"


async def test_receivers_are_killed(chaos: Chaos) -> None:
    """Members of the group die one after the other: nobody else suffers, and they are forgotten."""
    prefix, patience, count = chaos.place.prefix, None if chaos.long else 1.0, chaos.times()
    async with chaos.load("SIGKILL of a receiver", patience=patience, more=count) as load:
        victims = {name: load.members[name] for name in load.members if name.startswith("more")}

        async def strike() -> None:
            name, process = victims.popitem()
            process.kill()
            load.forget(name)

        await load.strike(strike, count)
        if not chaos.long:
            ids = [(await load("node", name)).lstrip("0") for name in load.members]
            chaos.database.execute(SILENCE, (prefix, ids))
            chaos.database.execute(AWAKE)
        until = time.monotonic() + STALE + 2 * HEARTBEAT
        while chaos.database.execute(NODES, (prefix,)) != [(len(load.members),)]:
            assert time.monotonic() < until, "the dead are still in the node table"
            await asyncio.sleep(0.1)
        assert chaos.database.execute(MEMBERS, (prefix,)) == [(2,)]


@pytest.mark.long_form
async def test_receivers_are_stopped(chaos: Chaos) -> None:
    """Members of the group stand still for a while, all at once, and then get all that was sent."""
    seconds, count = (30.0, 20) if chaos.long else (1.0, 1)
    fault = f"SIGSTOP of {count} receivers for {seconds:g} s"
    # Twenty processes have to catch up on one machine.
    limits = Limits(resume=10.0 if chaos.long else 2.0)
    async with chaos.load(fault, limits=limits, interval=0.05, more=count) as load:
        victims = [load.members[name] for name in load.members if name.startswith("more")]

        async def strike() -> None:
            with contextlib.ExitStack() as stack:
                for victim in victims:
                    stack.enter_context(frozen(victim.pid))
                await asyncio.sleep(seconds)

        await load.strike(strike, 1)


@pytest.mark.long_form
async def test_a_sender_forks(chaos: Chaos) -> None:
    """A process forks while it sends; the child sends as another sender and just ends."""
    async with chaos.load("fork") as load:
        load.targets["fork"], load.receivers["fork"] = load.targets["b"], ["b"]

        async def strike() -> None:
            child = f"child{load.strikes}"
            load.ledger.sent[child, "fork"] = Sent(10)
            assert await load("fork", "a", child, load.targets["fork"], 10) == 0

        await load.strike(strike, chaos.times())


@pytest.mark.parametrize("how", ["closed", "stopped"])
async def test_the_home_loop_ends(chaos: Chaos, how: str) -> None:
    """The loop in which two processes receive is closed, or stands still, and another is begun.

    A receive() in a loop that stands still keeps a message of a normal channel.
    """
    destinations = DESTINATIONS if how == "closed" else ("b", "c", "group")

    async def strike() -> None:
        await asyncio.gather(*(load("move_home", name, how) for name in ("b", "c")))

    async with chaos.load(f"home loop {how}", apart=True, destinations=destinations) as load:
        await load.strike(strike, chaos.times())


@pytest.mark.long_form
async def test_the_home_loop_is_blocked(chaos: Chaos) -> None:
    """The loop in which two processes receive does something else for longer than home waits."""

    async def strike() -> None:
        await asyncio.gather(*(load("block", name, 1.5) for name in ("b", "c")))

    async with chaos.load("home loop blocked for 1.5 s", apart=True) as load:
        await load.strike(strike, chaos.times())


async def test_consumers_are_slow(chaos: Chaos) -> None:
    """Channels that overflow refuse messages, and lose only what is counted as dropped."""

    async def strike() -> None:
        await load("consume_slowly", "c", 0.1)
        await asyncio.sleep(1.0)
        await load("consume_slowly", "c", 0.0)

    limits = Limits(dropped=True, refused=10_000)
    config = chaos.config(capacity=20)
    async with chaos.load("slow consumer at capacity", lambda _: config, limits=limits) as load:
        await load.strike(strike, chaos.times())


async def received_all(load: Load, destination: str, count: int) -> bool:
    """So many messages to a destination have come."""
    names = load.receivers[destination]
    counts = [entry for name in names for entry in await load("counts", name)]
    found = sum(number for _, to, number in counts if to == destination)
    return bool(found >= count)


@pytest.mark.parametrize("kind", ["a process's channel", "a normal channel"])
@pytest.mark.long_form
async def test_many_messages_wait(chaos: Chaos, kind: str) -> None:
    """What waits in a channel survives restarts of the server, and comes once and in order."""
    normal = kind == "a normal channel"
    # Each message to a normal channel counts those that wait there, up to its capacity: with more
    # it takes too long to send them.
    count = (5_000 if normal else 100_000) if chaos.long else 500
    config = chaos.config(capacity=200_000, expiry=600)
    # At the end 100 000 messages are in memory, in the channel or in the receiver's account.
    limits = Limits(resume=10.0, growth=200 * 1024 * 1024)
    fault = f"restart with {count} waiting in {kind}"
    async with chaos.load(fault, lambda _: config, limits=limits) as load:
        target = "waiting" if normal else await load("new_channel_unread", "c")
        load.targets["waiting"], load.receivers["waiting"] = target, []
        assert await load("send_many", "a", "waiting", target, count) == []

        async def strike() -> None:
            await asyncio.to_thread(chaos.database.server.restart)

        await load.strike(strike, 1)
        for name in ["b", "c"] if normal else ["c"]:
            await load("listen", name, target)
            load.receivers["waiting"].append(name)
        load.ledger.sent["a", "waiting"] = Sent(count)
        await load.strike(strike, 1)
        until = time.monotonic() + 120
        while not await received_all(load, "waiting", count):
            assert time.monotonic() < until, "what waited does not come"
            await asyncio.sleep(0.1)
