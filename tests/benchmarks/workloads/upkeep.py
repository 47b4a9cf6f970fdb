"""What a layer needs and leaves behind: connections, memory, tables, credentials."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.benchmarks import contenders
from tests.benchmarks.logins import RotatingLogin, rotating, temporary_folder
from tests.benchmarks.scale import Scale
from tests.benchmarks.servers import Servers
from tests.benchmarks.team import CannotDo, Team
from tests.benchmarks.workload import NO_ROTATION, ONE_PROCESS, Point, Reading, Workload

#: Seconds between two rotations.
_EVERY = 2.0
_RATE = 500.0
#: How many requests it takes to fill a database.
_PARTS = 4


class Rotating(Workload):
    """A workload under a login that rotates; other layers keep the superuser's."""

    def __init__(self, name: str, servers: Servers | None, scale: Scale) -> None:
        super().__init__(name, servers, scale)
        self._folder = temporary_folder()
        self.login: RotatingLogin | None = None

    def places(self) -> list[dict[str, Any]]:
        """All processes read the same file."""
        place = self.new_place()
        if self.name == contenders.OURS:
            self.login = RotatingLogin(self.servers, self._folder.name)
            place = {**place, **self.login.place}
        return [place] * self.processes

    def close(self) -> None:
        """Drop the roles as well."""
        super().close()
        if self.login is not None:
            self.login.remove()
        self._folder.cleanup()


class Rotation(Rotating):
    """What a rotation costs those who send and receive."""

    points = (
        Point(
            {
                "rotation": "us",
                "rotation_without": "us",
                "rotation_lost": "messages",
                "rotation_duplicated": "messages",
            },
            "500 messages/s to another process while the login rotates every 2 s, p99; the same"
            " without rotation; lost and duplicated",
        ),
    )
    cannot: ClassVar[dict[str, str]] = NO_ROTATION
    _channel = ""

    async def prepare(self, team: Team) -> None:
        """A receiver that keeps a record."""
        self._channel = (await team.ask(1, "collect"))["channel"]
        await self._load(team, 0.5)

    async def measure(self, team: Team, point: Point) -> Reading:
        """The same load without and with rotation."""
        assert self.login is not None
        without = await self._load(team, self.scale.rotation / 2)
        before = self.login.rotations
        async with rotating(self.login, _EVERY):
            during = await self._load(team, self.scale.rotation)
        rotations = self.login.rotations - before
        if rotations < self.scale.rotation // _EVERY:
            raise CannotDo(f"the login rotated {rotations} times in {self.scale.rotation:g} s")
        if disordered := during["out_of_order"] + without["out_of_order"]:
            raise CannotDo(f"{disordered} messages came out of order")
        values: dict[str, float | list[float]] = {
            "rotation": during["p99"],
            "rotation_without": without["p99"],
            "rotation_lost": during["lost"] + without["lost"],
            "rotation_duplicated": during["duplicated"] + without["duplicated"],
        }
        details = {
            "rotations": rotations,
            "longest": during["longest"],
            "longest_without": without["longest"],
        }
        return Reading(values, int(self.scale.rotation * 1.5 * _RATE), details)

    async def _load(self, team: Team, seconds: float) -> dict[str, Any]:
        number = int(seconds * _RATE)
        await team.ask(0, "paced", channel=self._channel, rate=_RATE, number=number)
        return await team.ask(1, "collected", sent=number)


class Connections(Rotating):
    """How many connections a process has open."""

    points = (
        Point(
            {"connections": "connections", "connections_hand_over": "connections"},
            "per process that sends and receives; the most while the login rotates",
        ),
    )

    def note(self, point: Point) -> str | None:
        """Whose connections cannot be told apart by process."""
        return "mean of two processes" if self.name in contenders.ON_REDIS else None

    async def prepare(self, team: Team) -> None:
        """Both processes receive, and send to each other as much as makes pools grow."""
        channels = [await team.ask(worker, "count", channels=1, group="all") for worker in (0, 1)]
        await self.reach(team, 0, [0, 1], group="all")
        each = 4
        for worker in (0, 1):
            to = channels[1 - worker]["channel"]
            await team.ask(worker, "send", channel=to, senders=50, each=each)
            await team.ask(1 - worker, "wait", received=50 * each)

    async def measure(self, team: Team, point: Point) -> Reading:
        """Count on the server; in a hand-over as often as it answers."""
        steady = self.servers.connections(self.place)
        if not steady:
            raise CannotDo("no connection was found")
        whole = max(steady) if self.name in contenders.ON_POSTGRES else sum(steady) / 2
        values: dict[str, float | list[float]] = {"connections": whole}
        if self.login is not None:
            values["connections_hand_over"] = await self._most(self.login)
        return Reading(values)

    async def _most(self, login: RotatingLogin) -> int:
        most = 0
        async with rotating(login, 10 * _EVERY):
            until = asyncio.get_running_loop().time() + _EVERY
            while asyncio.get_running_loop().time() < until:
                found = await asyncio.to_thread(self.servers.connections, self.place)
                most = max(most, *found)
        if (users := self.servers.users(self.place)) != {login.newest}:
            raise CannotDo(
                f"sessions of {sorted(users)} are open, after a change to {login.newest}"
            )
        return most


class IdleChannel(Workload):
    """Memory of channels on which nothing happens."""

    points = (
        Point(
            {"idle_channel": "bytes"},
            "memory of Python objects (tracemalloc) per channel with a pending receive(), at"
            " 10,000 of them",
        ),
    )
    processes = 1
    cannot: ClassVar[dict[str, str]] = {}
    #: Who gets 2,000 channels at most, and why.
    fewer: ClassVar[dict[str, str]] = {
        "memory": "each receive() looks at all there are",
        "channels_postgres": "of more some time out while they wait for a connection of its pool",
    }

    def note(self, point: Point) -> str | None:
        """Fewer channels for a short run, and for a layer that takes very long."""
        if self._channels < self.scale.large(10_000):
            return f"{self._channels:,} channels, as {self.fewer[self.name]}"
        return self.scale.note(10_000)

    async def measure(self, team: Team, point: Point) -> Reading:
        """Begin to receive on many channels."""
        answer = await team.ask(0, "idle", channels=self._channels)
        return Reading({"idle_channel": answer["bytes"]})

    @property
    def _channels(self) -> int:
        wanted = self.scale.large(10_000)
        return min(wanted, 2_000) if self.name in self.fewer else wanted


class Tables(Workload):
    """What is left on disk of messages that have expired."""

    points = (
        Point(
            {"tables": "bytes"},
            "tables and indexes on disk, twice the expiry after 200,000 messages",
        ),
    )
    cannot: ClassVar[dict[str, str]] = {
        **ONE_PROCESS,
        "channels_redis": "cannot: it has no tables, all is in the server's memory",
        "channels_redis_pubsub": "cannot: it has no tables, and stores no message",
    }
    #: Who has no occasion here to delete what has expired.
    later: ClassVar[dict[str, str]] = {
        "channels_postgres": "It deletes ten to twenty minutes after a channel left a group, and"
        " none does here"
    }
    _messages = 200_000
    _query = (
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c"
        " WHERE c.relkind = 'r' AND c.relname LIKE %s"
    )

    @property
    def repetitions(self) -> int:
        """The databases of one run stand for them: waiting for each in turn takes too long."""
        return 1

    @property
    def databases(self) -> int:
        """How many databases are filled; only our figure is compared with a goal."""
        several = self.name == contenders.OURS and self.scale.rows_kept is None
        return self.scale.repetitions if several else 1

    def note(self, point: Point) -> str | None:
        """When a layer deletes, and the time that rows are kept where it is not its own."""
        notes = [self.later[self.name]] if self.name in self.later else []
        if (brief := self.scale.rows_kept) is not None:
            notes += [f"{self.scale.note(self._messages)}; rows kept for {brief:g} seconds, not 60"]
        return "; ".join(notes) or None

    def places(self) -> list[dict[str, Any]]:
        """A sender and a receiver for each database."""
        brief = {} if self.scale.rows_kept is None else {"rows_kept": self.scale.rows_kept}
        made = [self.new_place() for _ in range(self.databases)]
        return [{**place, **brief} for place in made for _ in range(2)]

    async def prepare(self, team: Team) -> None:
        """Fill all databases, and wait for twice the expiry."""
        await asyncio.gather(*(self._fill(team, pair) for pair in range(self.databases)))
        await asyncio.sleep(2 * (self.scale.rows_kept or 60.0))

    async def measure(self, team: Team, point: Point) -> Reading:
        """Ask each database for the size of the layer's tables."""
        sizes: list[float] = []
        for place in self.places_made:
            name = place["database"]["NAME"]
            sizes.append(float(self.servers.execute(self._query, (f"{self.name}_%",), name)[0][0]))
        return Reading({"tables": sizes})

    async def _fill(self, team: Team, pair: int) -> None:
        sender, receiver = 2 * pair, 2 * pair + 1
        channel = (await team.ask(receiver, "count", channels=1))["channel"]
        await self.reach(team, sender, [receiver], channel=channel)
        each = self.scale.large(self._messages) // (50 * _PARTS)
        for part in range(1, _PARTS + 1):
            await team.ask(sender, "send", channel=channel, senders=50, each=each)
            await team.ask(receiver, "wait", received=50 * each * part)


class CredentialLookup(Workload):
    """What it costs to ask for credentials that are in memory, and to ask for them first."""

    points = (
        Point(
            {"credential_lookup": "us", "credential_first_users": "fetches"},
            "credentials from memory; fetches from the store for 100 concurrent first users",
        ),
    )
    processes = 1
    cannot: ClassVar[dict[str, str]] = NO_ROTATION

    async def measure(self, team: Team, point: Point) -> Reading:
        """Ask often, after a hundred threads asked at once."""
        answer = await team.ask(0, "look_up", number=self.scale.times(200_000))
        values = {"credential_lookup": answer["us"], "credential_first_users": answer["fetches"]}
        return Reading(values)
