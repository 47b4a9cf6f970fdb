"""Faults of the processes that send and receive, under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from channels_pg_secrets.engines.serialization import deserialize
from channels_pg_secrets.layer.item import decode_item
from channels_pg_secrets.layer.supervisor import HEARTBEAT, STALE
from pg_secrets.testing.process import frozen
from tests.chaos.ledger import Deliveries, Sent
from tests.chaos.load import DESTINATIONS, INTERVAL, NUMBERED, Limits, Load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.conftest import Chaos

NODES = "SELECT count(*) FROM channels_pg_secrets_node WHERE prefix = %s"
MEMBERS = "SELECT count(*) FROM channels_pg_secrets_member WHERE prefix = %s"
#: As if the nodes beside these had been silent for long enough to count as gone.
SILENCE = """
    UPDATE channels_pg_secrets_node SET seen = seen - interval '1 hour'
    WHERE prefix = %s AND NOT to_hex(id) = ANY(%s)
"""
#: As if somebody had been there to hear them for all that time.
CLAIMED = "SELECT id, body FROM channels_pg_secrets_queue WHERE to_hex(claimed_by) = ltrim(%s, '0')"
AWAKE = "UPDATE channels_pg_secrets_state SET awake = awake - interval '1 hour'"


async def test_receivers_are_killed(chaos: Chaos) -> None:
    """Receivers die one after the other: nobody else suffers, and they are forgotten.

    They are members of a group, and have a channel each that goes on being sent to.
    """
    prefix, patience, count = chaos.place.prefix, None if chaos.long else 1.0, chaos.times()
    fault, limits = "SIGKILL of a receiver", chaos.unnoticed
    async with chaos.load(fault, limits=limits, patience=patience, more=count) as load:
        victims = {name: load.members[name] for name in load.members if name.startswith("more")}
        for name in victims:
            await load.open_channel(name)
            await load.send("a", name, 20 * INTERVAL)

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
        assert chaos.database.execute(MEMBERS, (prefix,)) == [(3,)]


async def test_workers_are_killed(chaos: Chaos, tmp_path: Path) -> None:
    """Readers of a normal channel die one after the other: what they had claimed dies with them.

    Nothing else does, and nothing that a dead one may have done is done again.
    """
    count, fault = chaos.times(), "SIGKILL of a worker"
    limits = replace(chaos.unnoticed, buried=True)
    async with chaos.load(fault, limits=limits, destinations=NUMBERED, more=count) as load:
        victims = {name: load.members[name] for name in load.members if name.startswith("more")}
        for name in victims:
            await load("keep_account", name, str(tmp_path / name))
        await load.share("jobs", ["b", *victims])
        for name in ("a", "b"):
            await load.send(name, "jobs", INTERVAL)

        async def strike() -> None:
            name, process = victims.popitem()
            node = await load("node", name)
            process.kill()
            load.forget(name)
            until = time.monotonic() + 10
            while chaos.place.backends(chaos.place.login.user) > 2 * len(load.members):
                assert time.monotonic() < until, "a dead process's sessions do not end"
                await asyncio.sleep(0.02)
            for row, body in chaos.database.execute(CLAIMED, (node,)):
                message = deserialize(decode_item(body.encode()).body or b"")
                load.buried[row] = (message["from"], message["to"]), message["n"]
            load.estates += estate(tmp_path / name, name)

        await load.strike(strike, count)


def estate(path: Path, name: str) -> list[Deliveries]:
    """Return what a dead worker had received of the normal channel, by its own account."""
    found: dict[str, Deliveries] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        sender, destination, number, sent_at, received_at = json.loads(line)
        if destination != "jobs":
            continue
        of = found.setdefault(
            sender, Deliveries((sender, destination), name, [], [], [], shared=True)
        )
        of.numbers.append(number)
        of.sent_at.append(sent_at)
        of.received_at.append(received_at)
    return list(found.values())


@pytest.mark.long_form
async def test_receivers_are_stopped(chaos: Chaos) -> None:
    """Members of the group stand still for a while, all at once, and then get all that was sent."""
    seconds, count = (30.0, 20) if chaos.long else (1.0, 1)
    fault = f"SIGSTOP of {count} receivers for {seconds:g} s"
    limits = Limits(gap=seconds + 2.0, lines=1)
    async with chaos.load(fault, limits=limits, interval=0.05, more=count) as load:
        victims = [load.members[name] for name in load.members if name.startswith("more")]

        async def strike() -> None:
            with contextlib.ExitStack() as stack:
                for victim in victims:
                    stack.enter_context(frozen(victim.pid))
                await asyncio.sleep(seconds)

        await load.strike(strike, 1)


async def test_a_sender_forks(chaos: Chaos) -> None:
    """A process forks while it sends; the child sends as another sender and just ends."""
    async with chaos.load("fork", limits=chaos.unnoticed) as load:
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
    destinations = DESTINATIONS if how == "closed" else NUMBERED

    async def strike() -> None:
        await load.at_home("b", "c")
        await asyncio.gather(*(load("move_home", name, how) for name in ("b", "c")))

    fault, senders = f"home loop {how}", ("a",)
    async with chaos.load(fault, senders=senders, destinations=destinations) as load:
        await load.strike(strike, chaos.times())


async def test_the_home_loop_is_blocked(chaos: Chaos) -> None:
    """The loop in which two processes receive does something else for longer than home waits.

    Meanwhile they send from another loop, and so their connections move, and move back.
    """
    fault, limits = "home loop blocked for 3 s", Limits(gap=5.5, least_gap=2.0)
    async with chaos.load(fault, limits=limits, senders=("a",)) as load:
        others = {"b": "c", "c": "b"}
        for other in others.values():
            load.receivers[f"{other} meanwhile"] = [other]

        async def block(name: str, other: str) -> None:
            destination, target = f"{other} meanwhile", load.targets[other]
            assert await load("block", name, 3.0, destination, target, load.strikes)
            load.ledger.sent[name, destination] = Sent(load.strikes + 1)

        async def strike() -> None:
            await load.at_home(*others)
            await asyncio.gather(*(block(name, other) for name, other in others.items()))

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
    # Of a normal channel some 2,000 are read each second; on a slow machine fewer.
    count = (20_000 if normal else 100_000) if chaos.long else 500
    config = chaos.config(capacity=200_000, expiry=600)
    fault = f"restart with {count} waiting in {kind}"
    # Of normal channels a process reads one message at a time, from each in turn: what waits leaves
    # less time for the others, and on a slow machine they would grow faster than they shrink.
    interval = 5 * INTERVAL if normal else INTERVAL
    async with chaos.load(fault, lambda _: config, interval=interval) as load:
        target = "waiting" if normal else await load("new_channel_unread", "c")
        load.targets["waiting"], load.receivers["waiting"] = target, []
        assert await load("send_many", "a", "waiting", target, count) == []

        async def strike() -> None:
            await asyncio.to_thread(chaos.database.server.restart)

        half = chaos.times(short=2) // 2
        await load.strike(strike, half)
        for name in ["b", "c"] if normal else ["c"]:
            await load("listen", name, target)
            load.receivers["waiting"].append(name)
        if normal:
            load.shared.add("waiting")
        load.ledger.sent["a", "waiting"] = Sent(count)
        await load.strike(strike, half)
        until = time.monotonic() + 120
        while not await received_all(load, "waiting", count):
            assert time.monotonic() < until, "what waited does not come"
            await asyncio.sleep(0.1)
