"""Faults of the database server under load."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from channels_pg_secrets.layer.outbox import KEEP_SECONDS
from channels_pg_secrets.layer.supervisor import HEARTBEAT
from pg_secrets.testing.postgres import StopMode, find_binaries
from pg_secrets.testing.proxy import FaultProxy
from tests.chaos.ledger import Deliveries, Ledger, Sent
from tests.chaos.load import DESTINATIONS, NUMBERED, SETTLE, Limits
from tests.chaos.servers import Couple
from tests.integration.layer.conftest import Layers, migrate

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos
    from tests.chaos.load import Process

    Eventually = Callable[..., Awaitable[Any]]

#: What a listener asks its server now and then; the other session does everything else.
LISTENS = "query ~ 'LISTEN|backlog|blob|session_user'"
#: The log lines of a process whose two connections are lost and come again: two each, and the
#: reasons for which they cannot come yet.
RECONNECTS = 8.0
#: Seconds after which what was sent again by mistake would have come.
LATER = 0.5


def terminate(chaos: Chaos, which: str = "true") -> int:
    """End sessions of the run's login; returns how many there were."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND "
    return len(chaos.database.execute(query + which, (chaos.place.login.user,)))


@pytest.mark.parametrize(
    ("which", "condition", "least"),
    [
        ("listeners", LISTENS, 3),
        ("publishers", f"NOT ({LISTENS})", 3),
        ("all sessions", "true", 6),
    ],
)
async def test_sessions_are_terminated(
    chaos: Chaos, which: str, condition: str, least: int
) -> None:
    """Sessions of one kind end in all processes at once: nothing is lost, repeated or late."""

    async def strike() -> None:
        assert terminate(chaos, condition) >= least

    limits = Limits(lines=5)
    await chaos.suffer(f"{which} terminated", strike, chaos.times(), limits=limits)


async def test_a_storm_of_terminations(chaos: Chaos) -> None:
    """Whatever session comes up is ended again, again and again for a second."""

    terminations = 40 if chaos.long else 15

    async def strike() -> None:
        ended = 0
        for _ in range(terminations):
            ended += await asyncio.to_thread(terminate, chaos)
            await asyncio.sleep(0.025)
        assert ended >= 12, "it was no storm"

    # Each of the two connections may come and go each time, for a second or more.
    limits = Limits(gap=4.0, lines=4 * terminations + RECONNECTS)
    await chaos.suffer("storm of terminations", strike, chaos.times(), limits=limits)


@pytest.mark.parametrize(("mode", "name"), [("fast", "fast restart"), ("immediate", "crash")])
async def test_the_server_restarts(chaos: Chaos, mode: StopMode, name: str) -> None:
    """The server is restarted in order, or crashes and recovers with empty tables."""

    async def strike() -> None:
        await asyncio.to_thread(chaos.database.server.restart, mode)

    limits = Limits(lines=RECONNECTS + 2)
    await chaos.suffer(name, strike, chaos.times(), limits=limits)


class Tally:
    """What came of ten messages to each of some destinations, again and again, without a load."""

    def __init__(self, chaos: Chaos) -> None:
        self.sent = self.delivered = self.duplicated = self.disordered = 0
        #: By destination; nothing where nothing is.
        self.lost: Counter[str] = Counter()
        self._chaos = chaos

    async def add(self, receiver: Process, *destinations: str) -> None:
        """Count what a receiver got, when nothing comes any more."""
        await asyncio.sleep(LATER)
        ledger = Ledger()
        for destination in destinations:
            ledger.sent["", destination] = Sent(10)
        for _, destination, *what in await receiver("deliveries"):
            if destination in destinations:
                ledger.deliveries.append(Deliveries(("", destination), "receiver", *what))
        balance = ledger.balance()
        assert balance.unknown == 0
        self.sent += balance.sent
        self.delivered += balance.delivered
        self.duplicated += balance.duplicated
        self.disordered += balance.disordered
        for stream in ledger.sent:
            self.lost += Counter({stream[1]: len(ledger.missing(stream))})

    def tell(self, fault: str) -> None:
        """Enter it into the report; nothing may have come twice, or out of order."""
        self._chaos.tell(
            fault,
            sent=self.sent,
            delivered=self.delivered,
            lost=self.lost.total(),
            duplicated=self.duplicated,
            disordered=self.disordered,
        )
        assert (self.duplicated, self.disordered) == (0, 0)


@asynccontextmanager
async def heard(
    chaos: Chaos, proxy: FaultProxy, eventually: Eventually, *senders: str
) -> AsyncIterator[tuple[Process, str, list[Process]]]:
    """A receiver behind a proxy, its channel and some senders, of whom it has heard the first."""
    async with chaos.processes(1 + len(senders)) as (receiver, *others):
        await receiver("begin", "receiver", chaos.config(PORT=proxy.port))
        for name, sender in zip(senders, others, strict=True):
            await sender("begin", name, chaos.config())
            # It is registered then, and has both its connections.
            await sender("new_channel")
        channel = await receiver("new_channel")
        await others[0]("send_many", "heard", channel, 10)
        await eventually(lambda: _all_came(receiver, "heard"))
        yield receiver, channel, others


async def test_a_process_that_is_back_late_after_a_crash(
    chaos: Chaos, proxy: FaultProxy, eventually: Eventually
) -> None:
    """After a crash a process that comes back later than the others misses nothing."""
    tally = Tally(chaos)
    for _ in range(chaos.times()):
        async with heard(chaos, proxy, eventually, "sender") as (receiver, channel, (sender,)):
            await receiver("group_add", "late", channel)
            proxy.refuse()
            proxy.hold_answers()
            assert await sender("send_many", "before", channel, 10) == []
            assert await sender("send_many", "group before", "group:late", 10) == []
            await asyncio.to_thread(chaos.database.server.restart, "immediate")
            proxy.reset()
            proxy.release_answers()
            assert await sender("send_many", "after", channel, 10) == []
            assert await sender("send_many", "group after", "group:late", 10) == []
            proxy.admit()
            for sent in ("after", "before", "group before", "group after"):
                await eventually(lambda sent=sent: _all_came(receiver, sent), 3.0)
            await tally.add(receiver, "heard", "before", "after", "group before", "group after")
    tally.tell("crash, and a receiver is back late")
    assert tally.lost == {}


@pytest.fixture(scope="module")
def couple() -> Iterator[Couple]:
    """Two servers, a migrated database on both."""
    if not (find_binaries() / "pg_basebackup").exists():
        pytest.skip("these PostgreSQL binaries have no pg_basebackup")
    made = Couple()
    try:
        made.database.create()
        migrate(made.database)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("name", "crash", "synchronous"),
    [
        pytest.param("planned fail-over", False, False, marks=pytest.mark.long_form),
        ("fail-over after a crash, synchronous standby", True, True),
        pytest.param(
            "fail-over after a crash, without normal channels",
            True,
            False,
            marks=pytest.mark.long_form,
        ),
    ],
)
async def test_fail_over(
    chaos: Chaos, couple: Couple, name: str, crash: bool, synchronous: bool
) -> None:
    """The primary ends, its standby is promoted, and the layer finds it by its settings.

    Work whose completion an asynchronous standby has not heard of is given out again.
    """

    chaos.place = Layers(couple.database)

    async def strike() -> None:
        await asyncio.to_thread(couple.fail_over, crash=crash)

    async with chaos.load(
        name,
        lambda _: chaos.config(**couple.addresses),
        # Both addresses are tried, and everybody waits for the others, as after a crash.
        limits=Limits(resume=2.0 if chaos.long else 5.0, gap=5.0, lines=RECONNECTS + 2),
        destinations=NUMBERED if crash and not synchronous else DESTINATIONS,
        # In which claims are looked after, and what came twice once would come.
        settle=2 * HEARTBEAT if chaos.long else SETTLE,
    ) as load:
        for _ in range(chaos.times()):
            await asyncio.to_thread(couple.follow, synchronous=synchronous)
            await load.strike(strike, 1)


@pytest.mark.long_form
async def test_what_its_sender_keeps_no_longer(
    chaos: Chaos, proxy: FaultProxy, eventually: Eventually
) -> None:
    """What was sent ten seconds before a crash is lost for a receiver that was out of reach."""
    tally = Tally(chaos)
    for kept in (KEEP_SECONDS, *[1.0] * (chaos.times() - 1)):
        async with heard(chaos, proxy, eventually, "sender") as (receiver, channel, (sender,)):
            await sender("keep_for", kept)
            proxy.hold_answers()
            assert await sender("send_many", "early", channel, 10) == []
            await asyncio.sleep(kept + 0.5)
            assert await sender("send_many", "late", channel, 10) == []
            await asyncio.to_thread(chaos.database.server.restart, "immediate")
            proxy.reset()
            proxy.release_answers()
            await eventually(lambda: _all_came(receiver, "late"))
            await tally.add(receiver, "heard", "early", "late")
    tally.tell("crash, long after ten were sent to a receiver out of reach")
    assert tally.lost == {"early": 10 * chaos.times()}


@pytest.mark.parametrize("survives", [True, False], ids=["sender survives", "sender dies too"])
async def test_what_dies_with_its_sender(
    chaos: Chaos, proxy: FaultProxy, eventually: Eventually, survives: bool
) -> None:
    """Of what a crashed server had taken, only a dead sender's undelivered messages are lost.

    That is: neither what its receiver had heard before, nor what lay in a normal channel.
    """
    tally = Tally(chaos)
    for _ in range(chaos.times()):
        behind = heard(chaos, proxy, eventually, "sender", "later")
        async with behind as (receiver, channel, (sender, later)):
            proxy.hold_answers()
            assert await sender("send_many", "unheard", channel, 10) == []
            assert await sender("send_many", "work", "work", 10) == []
            if not survives:
                sender.kill()
            await asyncio.to_thread(chaos.database.server.restart, "immediate")
            proxy.reset()
            proxy.release_answers()
            await later("send_many", "afterwards", channel, 10)
            await receiver("listen", "work")
            for destination in ("afterwards", "work", *(["unheard"] if survives else [])):
                await eventually(lambda: _all_came(receiver, destination))  # noqa: B023
            await tally.add(receiver, "heard", "work", "afterwards", "unheard")
    who = "survives" if survives else "dies too"
    tally.tell(f"crash with ten on their way, whose sender {who}")
    assert tally.lost == ({} if survives else {"unheard": 10 * chaos.times()})


async def test_a_process_that_starts_after_a_crash(
    chaos: Chaos, proxy: FaultProxy, eventually: Eventually
) -> None:
    """What a new process sends reaches one that registers again half a second after a crash."""
    tally = Tally(chaos)
    for _ in range(chaos.times()):
        async with chaos.processes(2) as (receiver, newcomer):
            await receiver("begin", "receiver", chaos.config(PORT=proxy.port))
            await newcomer("begin", "newcomer", chaos.config())
            channel = await receiver("new_channel")
            proxy.refuse()
            await asyncio.to_thread(chaos.database.server.restart, "immediate")
            assert await newcomer("send_many", "channel", channel, 10) == []
            await asyncio.sleep(0.5)
            proxy.admit()
            await eventually(lambda: _all_came(receiver, "channel"), 2.0)
            await tally.add(receiver, "channel")
    tally.tell("crash, and a sender that is new")
    assert tally.lost == {}


@pytest.mark.parametrize("fault", ["all sessions terminated", "crash"])
async def test_joins_and_leaves(chaos: Chaos, eventually: Eventually, fault: str) -> None:
    """A channel whose join returned is in its group, and out of it when its leave has."""
    joined, left = Tally(chaos), Tally(chaos)

    async def strike() -> None:
        await asyncio.sleep(random.uniform(0, 0.01))
        if fault == "crash":
            await asyncio.to_thread(chaos.database.server.restart, "immediate")
        else:
            assert terminate(chaos) >= 4

    async with chaos.processes(2) as (sender, member):
        for name, process in (("sender", sender), ("member", member)):
            await process("begin", name, chaos.config())
            await process("new_channel")
        channel = await member("new_channel")

        async def change(verb: str, group: str, afterwards: str) -> None:
            for process in (sender, member):
                await eventually(lambda process=process: _connected(process))
            await asyncio.gather(member(verb, group, channel), strike())
            assert await sender("send_many", afterwards, f"group:{group}", 10) == []

        for number in range(chaos.times()):
            # Another group each time: after a crash who joins gets what was sent a moment before.
            await change("group_add", f"group{number}", f"joined {number}")
            await eventually(lambda number=number: _all_came(member, f"joined {number}"))
            await change("group_discard", f"group{number}", f"left {number}")
        await joined.add(member, *(f"joined {number}" for number in range(chaos.times())))
        await left.add(member, *(f"left {number}" for number in range(chaos.times())))
    joined.tell(f"{fault}, while a channel joins and leaves")
    assert joined.lost == {}
    assert left.delivered == 0


async def _connected(process: Process) -> bool:
    return bool(await process("connections") == 2)


async def _all_came(process: Process, destination: str) -> bool:
    counts = [count for _, to, count in await process("counts") if to == destination]
    return bool(sum(counts) == 10)
