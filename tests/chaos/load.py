"""Load on real processes while faults strike, and the judgement of what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from channels_pg_secrets.layer.candidate import FIRST_TRIAL
from tests.chaos.ledger import Deliveries, Ledger, Sent, Stream
from tests.chaos.report import Row
from tests.integration.layer.conftest import Peer

#: Seconds between two messages of one stream.
INTERVAL = 0.01
#: Two processes' channels, a group, a normal channel with two readers and one with one reader, and
#: a group of a process's channel and a normal channel.
DESTINATIONS = ("b", "c", "group", "work", "solo", "mixed")
#: Those without normal channels.
NUMBERED = ("b", "c", "group")
#: Seconds within which messages must flow again, whatever the fault: then it is a failure.
PATIENCE = 40.0
#: Seconds after which a process that goes on sending has moved its connections to that loop: what
#: strikes while it does would find one fewer.
HOME = 2 * FIRST_TRIAL
#: Seconds after which it is noted who is waited for, should that be too late.
LATE = 2.0
#: Seconds for what is under way to arrive when nobody sends any more.
DRAIN = 15.0
#: Seconds after which nothing comes twice any more, if nothing is left in the queue.
SETTLE = 0.1
#: Bytes of memory that a process may grow by during a run. Its account of the messages is in it.
GROWTH = 48 * 1024 * 1024

Strike = Callable[[], Awaitable[object]]


class Process(Peer):
    """A process under load (see ``worker.py``)."""

    def __init__(self) -> None:
        super().__init__({}, Path(__file__).with_name("worker.py"))

    def kill(self) -> None:
        """End it as the kernel would."""
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None


class Pool:
    """Processes that are used again by the next run: to start one takes most of a second."""

    def __init__(self) -> None:
        self._idle: list[Process] = []

    def take(self, count: int) -> list[Process]:
        """Return so many, new ones if need be."""
        taken = [self._idle.pop() for _ in range(min(count, len(self._idle)))]
        return taken + [Process() for _ in range(count - len(taken))]

    def give_back(self, processes: Iterable[Process]) -> None:
        """Keep those that are alive."""
        self._idle += [process for process in processes if process.alive]

    def close(self) -> None:
        """End all."""
        for process in self._idle:
            process.close()


@dataclass(frozen=True)
class Limits:
    """What a fault may cost. ``resume``: seconds from its end to the first message sent afterwards.

    ``gap``: seconds without a message at any receiver, the fault's own time included. ``refused``:
    messages that ``send()`` raised for. ``dropped``: what the layer counts as dropped for want of
    capacity is all that may be missing; ``buried``: what was claimed by processes that died.
    ``least_gap``: without one as long as that the fault did not strike.
    ``lines``: log lines of one process, for each time that the fault struck; ``growth`` is in bytes
    of one process's memory.
    """

    resume: float | None = 2.0
    gap: float = 2.0
    least_gap: float = 0.0
    refused: int = 0
    dropped: bool = False
    buried: bool = False
    lines: float = 8.0
    growth: int = GROWTH


@dataclass(frozen=True)
class Shape:
    """What load there is, where it is not the usual.

    ``interval``: seconds between two messages of a stream. ``senders``: who sends. ``patience``:
    seconds that the layer waits for an answer, if not its own. ``more``: processes that only
    receive what is sent to the group. ``settle``: seconds at the end in which something might come
    twice.
    """

    destinations: tuple[str, ...] = DESTINATIONS
    interval: float = INTERVAL
    senders: tuple[str, ...] = ("a", "b")
    patience: float | None = None
    more: int = 0
    settle: float = SETTLE

    @property
    def names(self) -> list[str]:
        """All processes."""
        return ["a", "b", "c", *(f"more{number}" for number in range(self.more))]


class Load:
    """Processes that send to each other all the time: to channels, a group and normal channels.

    ``a`` and ``b`` send; ``b`` and ``c`` have a channel each and one in the group, and share one
    normal channel; ``c`` alone reads another, and a third that is in a group with ``b``'s channel.
    """

    def __init__(self, members: Mapping[str, Process]) -> None:
        self.members = dict(members)
        self.ledger = Ledger()
        #: Streams that go on all the time.
        self.flows: set[Stream] = set()
        self.resumes: list[float] = []
        #: Of the longest: which streams were waited for, and how the processes were meanwhile.
        self.slowest = ""
        self.strikes = 0
        #: What processes had claimed when they died: row of the queue, and receiver's message.
        self.buried: dict[int, tuple[Stream, int]] = {}
        #: What those who died had received before.
        self.estates: list[Deliveries] = []
        #: Channels by name: those of processes, ``group:g`` and normal channels.
        self.targets: dict[str, str] = {}
        #: Where each destination's messages are to arrive.
        self.receivers: dict[str, list[str]] = {}
        #: Destinations of which each message is for one of several receivers.
        self.shared: set[str] = set()

    async def start(self, config: Callable[[str], dict[str, Any]], shape: Shape) -> None:
        """Make the layers, and let the messages flow. ``config``: ``CONFIG`` by process name."""

        async def begin(name: str) -> None:
            if shape.patience is not None:
                await self("hasten", name, shape.patience)
            await self("begin", name, name, config(name))
            if name in ("b", "c"):
                await self.open_channel(name)
            if name != "a":
                await self.join(name)

        await asyncio.gather(*map(begin, shape.names))
        await self.share("work", ["b", "c"])
        await self.share("solo", ["c"])
        await self.mix("b", "c")
        for name in shape.senders:
            for destination in shape.destinations:
                await self.send(name, destination, shape.interval)
        await self.flowing()
        # Before anything is counted: a move is a reconnect, and is logged as one.
        await self.not_private()
        await self.whole()
        await self.flowing()
        for name in self.members:
            await self("mark", name)

    async def __call__(self, verb: str, name: str, *arguments: Any) -> Any:
        """Ask one process to do something."""
        return await self.members[name](verb, *arguments)

    async def open_channel(self, name: str) -> str:
        """Give a process a channel, which messages can be sent to by its name."""
        channel: str = await self("new_channel", name)
        self.targets[name] = channel
        self.receivers[name] = [name]
        return channel

    async def join(self, name: str) -> None:
        """Let a process join the group with a channel."""
        await self("group_add", name, "g", await self("new_channel", name))
        self.targets["group"] = "group:g"
        self.receivers.setdefault("group", []).append(name)

    async def share(self, channel: str, names: list[str]) -> None:
        """Let processes receive on a normal channel."""
        for name in names:
            await self("listen", name, channel)
        self.targets[channel] = channel
        self.receivers[channel] = names
        if len(names) > 1:
            self.shared.add(channel)

    async def mix(self, member: str, reader: str) -> None:
        """Make a group of a process's channel and of a normal channel that another reads."""
        await self("listen", reader, "mixed")
        await self("group_add", member, "m", self.targets[member])
        await self("group_add", reader, "m", "mixed")
        self.targets["mixed"] = "group:m"
        self.receivers["mixed"] = [member, reader]

    async def send(self, name: str, destination: str, interval: float) -> None:
        """Let a process send to a destination from now on."""
        self.ledger.sent[name, destination] = Sent()
        self.flows.add((name, destination))
        await self("send", name, destination, self.targets[destination], interval)

    def forget(self, name: str) -> None:
        """A process that only received is gone: nobody waits for what it should get."""
        del self.members[name]
        for receivers in self.receivers.values():
            if name in receivers:
                receivers.remove(name)

    async def flowing(self) -> None:
        """Wait until every stream has delivered a message that is sent from now on."""
        await self.resumed(time.monotonic())

    async def whole(self) -> None:
        """Wait until every process has both its connections."""
        until = time.monotonic() + PATIENCE
        for name in self.members:
            while await self("connections", name) < 2:
                if time.monotonic() > until:
                    lately = await self("lately", name)
                    raise AssertionError(f"{name} does not connect: {lately}")
                await asyncio.sleep(0.02)

    async def at_home(self, *names: str) -> None:
        """Wait until the loop in which some processes receive keeps their connections."""
        until = time.monotonic() + PATIENCE
        for name in names:
            while await self("home", name) != "receiver":
                assert time.monotonic() < until, f"{name} does not come home"
                await asyncio.sleep(0.02)

    async def not_private(self) -> None:
        """Wait until processes that only send have moved to the loop that does, if they will."""
        until = time.monotonic() + HOME
        for name in self.members:
            while await self("home", name) == "private":
                if time.monotonic() > until:
                    return
                await asyncio.sleep(0.02)

    async def strike(self, fault: Strike, times: int) -> None:
        """Let a fault strike again and again; it returns when it is over."""
        for _ in range(times):
            await self.flowing()
            await self.whole()
            # Not always in the same moment of the load's own rhythm.
            await asyncio.sleep(random.uniform(0, 10 * INTERVAL))
            await fault()
            ended = time.monotonic()
            self.resumes.append(await self.resumed(ended) - ended)
            self.strikes += 1

    async def resumed(self, since: float) -> float:
        """Wait until every stream has delivered what was sent since; return when the last did."""
        until = time.monotonic() + PATIENCE
        note = ""
        while True:
            waiting, latest = await self._arrivals(since)
            if not waiting:
                if latest - since > max(self.resumes, default=0.0):
                    self.slowest = note
                return latest
            if not note and time.monotonic() > since + LATE:
                lately = {name: await self("lately", name) for name in self.members}
                note = f"after {LATE:g} s {sorted(waiting)} were silent: {lately}"
            assert time.monotonic() < until, f"no message arrives any more: {sorted(waiting)}"
            await asyncio.sleep(0.02)

    async def _arrivals(self, since: float) -> tuple[set[tuple[str, str, str]], float]:
        """Say which streams have not delivered, and when the last of the others did."""
        arrived: dict[tuple[str, str, str], float] = {}
        for name in {name for names in self.receivers.values() for name in names}:
            for sender, destination, at in await self("resumed", name, since):
                key = (sender, destination, self._place(destination, name))
                if at is not None:
                    arrived[key] = min(at, arrived.get(key, at))
        expected = {
            (sender, destination, self._place(destination, name))
            for sender, destination in self.flows
            for name in self.receivers[destination]
        }
        times = [arrived[key] for key in expected & arrived.keys()]
        return expected - arrived.keys(), max(times, default=since)

    def _place(self, destination: str, name: str) -> str:
        return "any" if destination in self.shared else name

    async def settle_accounts(
        self, queued: Callable[[], set[int]], *, drain: float = DRAIN, settle: float = SETTLE
    ) -> None:
        """Stop sending, wait for what is under way, and enter everything into the ledger.

        ``queued`` says which rows lie in normal channels: while one does, it may come again.
        """
        for name in {sender for sender, _ in self.flows}:
            for destination, (count, refused) in (await self("stop_sending", name)).items():
                owed = count if self.receivers[destination] else 0
                self.ledger.sent[name, destination] = Sent(owed, set(refused))
        until = time.monotonic() + drain
        while await self._owed():
            if time.monotonic() > until:
                break
            await asyncio.sleep(0.05)
        until = time.monotonic() + DRAIN
        while left := await asyncio.to_thread(queued) - self.buried.keys():
            assert time.monotonic() < until, f"{len(left)} messages are left in normal channels"
            await asyncio.sleep(0.05)
        await asyncio.sleep(settle)
        await self.collect()

    async def collect(self) -> None:
        """Enter what the receivers got."""
        self.ledger.deliveries = self.estates.copy()
        for name in {name for names in self.receivers.values() for name in names}:
            for sender, destination, numbers, sent_at, received_at in await self(
                "deliveries", name
            ):
                if (sender, destination) not in self.ledger.sent:
                    continue
                shared = destination in self.shared
                delivered = Deliveries(
                    (sender, destination), name, numbers, sent_at, received_at, shared
                )
                self.ledger.deliveries.append(delivered)

    async def _owed(self) -> bool:
        """Something has not arrived yet."""
        counts: dict[tuple[str, str, str], int] = {}
        for name in {name for names in self.receivers.values() for name in names}:
            for sender, destination, count in await self("counts", name):
                key = (sender, destination, self._place(destination, name))
                counts[key] = counts.get(key, 0) + count
        return any(
            counts.get((*stream, self._place(stream[1], name)), 0) < len(sent.owed)
            for stream, sent in self.ledger.sent.items()
            for name in self.receivers[stream[1]]
        )

    async def end(self) -> None:
        """Close all layers."""
        await asyncio.gather(*(self("end", name) for name in self.members))

    async def judge(self, kind: str, fault: str, limits: Limits) -> tuple[Row, list[str]]:
        """Return the figures, and what is wrong with them."""
        balance = self.ledger.balance()
        usages = {name: await self("usage", name) for name in self.members}
        lines = max(usage["lines"] for usage in usages.values())
        row = Row(
            kind=kind,
            fault=fault,
            repetitions=self.strikes,
            sent=balance.sent,
            delivered=balance.delivered,
            refused=balance.refused,
            lost=balance.lost,
            duplicated=balance.duplicated,
            disordered=balance.disordered,
            gap=balance.gap,
            resumes=self.resumes,
            growth=max(usage["growth"] for usage in usages.values()),
            lines=lines,
        )
        wrong = []
        dropped = sum(usage["stats"]["dropped_over_capacity"] for usage in usages.values())
        if limits.dropped and balance.lost == dropped:
            balance = replace(balance, lost=0)
        if limits.buried and self._lost() <= set(self.buried.values()):
            balance = replace(balance, lost=0)
        if limits.dropped and not (dropped and balance.refused):
            wrong.append("no channel was over capacity")
        if not balance.clean:
            wrong.append(
                f"{balance}, {dropped} dropped; missing: {self._missing()};"
                f" twice: {self.ledger.repeated()[:20]}; out of order: {self._disordered()}"
            )
        if balance.refused > limits.refused:
            wrong.append(f"{balance.refused} sends were refused, at most {limits.refused} expected")
        if limits.resume is not None and max(self.resumes, default=0.0) > limits.resume:
            wrong.append(f"messages flowed again after {max(self.resumes):.2f} s: {self.slowest}")
        if balance.gap > limits.gap:
            wrong.append(f"a receiver got nothing for {balance.gap:.2f} s, at most {limits.gap:g}")
        if balance.gap < limits.least_gap:
            wrong.append(f"it did not strike: the longest gap was {balance.gap:.2f} s")
        if lines > limits.lines * max(1, self.strikes):
            kinds = {name: usage["kinds"] for name, usage in usages.items()}
            wrong.append(f"{lines} log lines for {self.strikes} faults: {kinds}")
        if row.growth > limits.growth:
            wrong.append(f"a process grew by {row.growth} bytes")
        for name, usage in usages.items():
            wrong += [f"{name}: {text}" for text in usage["failures"] + usage["errors"]]
        return row, wrong

    def _lost(self) -> set[tuple[Stream, int]]:
        ledger = self.ledger
        return {(stream, n) for stream in ledger.sent for _, n in ledger.missing(stream)}

    def _disordered(self) -> dict[str, list[int]]:
        return {
            f"{each.stream} at {each.receiver}": out[:10]
            for each in self.ledger.deliveries
            if (out := each.out_of_order())
        }

    def _missing(self) -> dict[str, list[tuple[str, int]]]:
        found = {stream: self.ledger.missing(stream) for stream in self.ledger.sent}
        return {f"{a} to {b}": missing[:10] for (a, b), missing in found.items() if missing}
