"""Redis users that change while messages are under way."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from channels_pg_secrets.engines.redis_connection import Following
from pg_secrets import Credentials, CredentialSource, Lease, policy
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.process import frozen
from pg_secrets.testing.redis import RedisServer

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]
Soon = Callable[..., Awaitable[Any]]


FIRST = Credentials(user="app", password="first")
SECOND = Credentials(user="app", password="second")


class UsersOnLease(ScriptedAdapter):
    """Makes a Redis user per fetch and deletes him on revocation, as Vault does."""

    def __init__(self, server: RedisServer, rules: list[str]) -> None:
        super().__init__(self._make)
        self._server, self._rules, self._numbers = server, rules, itertools.count(1)

    def _make(self) -> Credentials:
        user = f"v-{next(self._numbers)}"
        self._server.set_user(user, "secret", *self._rules)
        return Credentials(user=user, password="secret", lease=Lease(user, 3600.0))

    def revoke(self, credentials: Credentials) -> None:
        self._server.delete_user(str(credentials.user))
        super().revoke(credentials)


class Load:
    """Numbered messages of two layers to a channel of a third, and to a group that it is in.

    Each layer has a source of its own, as in three processes.
    """

    #: Messages on the way, at most: over its capacity of 100 the core layer refuses and drops.
    limit = 50

    def __init__(self, make: Make, store: ScriptedAdapter, until: Until) -> None:
        self.sources = [CredentialSource(store) for _ in range(3)]
        self._receiver, *senders = map(make, self.sources)
        self._senders = dict(zip("ab", senders, strict=True))
        self._until = until
        self._sent = dict.fromkeys(self._senders, 0)
        #: What came to each channel: its sender and number.
        self._received: dict[str, list[tuple[str, int]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Run until the block ends, wait for what is on its way, and see that all has come."""
        channel, other = [await self._receiver.new_channel() for _ in range(2)]
        for member in (channel, other):
            self._received[member] = []
            await self._receiver.group_add("group", member)
        receiving = [asyncio.create_task(self._receive(member)) for member in self._received]
        sending = [asyncio.create_task(self._send(name, channel)) for name in self._senders]
        self._tasks = [*receiving, *sending]
        try:
            yield self
            self._ending = True
            await asyncio.wait_for(asyncio.gather(*sending), 10)
            expected = {
                channel: {name: list(range(sent)) for name, sent in self._sent.items()},
                other: {name: list(range(0, sent, 2)) for name, sent in self._sent.items()},
            }
            total = sum(len(numbers) for part in expected.values() for numbers in part.values())
            await self._until(lambda: self._number() >= total)
            assert self._by_sender() == expected
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(task.cancelled() for task in receiving), receiving

    async def pass_on(self, more: int) -> None:
        """Wait until some more messages have arrived."""
        wanted = self._number() + more

        def passed_on() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return self._number() >= wanted

        await self._until(passed_on)

    async def refresh(self) -> None:
        """Have all sources fetch now."""
        for source in self.sources:
            await asyncio.to_thread(source.refresh)

    def _number(self) -> int:
        return sum(map(len, self._received.values()))

    def _by_sender(self) -> dict[str, dict[str, list[int]]]:
        """What came to each channel from each sender, in the order in which it came."""
        return {
            channel: {name: [n for by, n in came if by == name] for name in self._senders}
            for channel, came in self._received.items()
        }

    async def _send(self, name: str, channel: str) -> None:
        """Send to the group and to the channel in turn; the latter has to get all, in order."""
        while not self._ending:
            await asyncio.sleep(0.004)
            if sum(self._sent.values()) - len(self._received[channel]) > self.limit:
                continue
            message = {"type": "count", "by": name, "n": self._sent[name]}
            if self._sent[name] % 2:
                await self._senders[name].send(channel, message)
            else:
                await self._senders[name].group_send("group", message)
            self._sent[name] += 1

    async def _receive(self, channel: str) -> None:
        while True:
            message = await self._receiver.receive(channel)
            self._received[channel].append((message["by"], message["n"]))


@pytest.fixture
def load(
    make: Make, until: Until, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ScriptedAdapter], Load]]:
    """Makes a load between layers whose logins come from a store, asked at any time."""
    monkeypatch.setattr(policy, "FETCH_SPACING", 0.0)
    made: list[Load] = []

    def build(store: ScriptedAdapter) -> Load:
        made.append(Load(make, store, until))
        return made[-1]

    yield build
    for source in (source for one in made for source in one.sources):
        source.close()


MakeLoad = Callable[[ScriptedAdapter], Load]


async def test_new_passwords_interrupt_nobody(
    server: RedisServer, load: MakeLoad, until: Until
) -> None:
    """At each of 20 changes open connections log in anew in place; nothing is lost, comes twice,
    comes out of its sender's order or is refused."""
    store = ScriptedAdapter(FIRST)
    async with load(store).running() as messages:
        await messages.pass_on(50)
        before = await asyncio.to_thread(sessions, server)
        old = str(FIRST.password)
        for number in range(20):
            new, logins = f"password-{number}", await asyncio.to_thread(logins_in_place, server)
            # For a moment both are good, as with every rotation that is planned.
            await asyncio.to_thread(server.execute, "ACL", "SETUSER", "app", f">{new}")
            store.then(Credentials(user="app", password=new))
            await messages.refresh()
            await until(lambda logins=logins: logins_in_place(server) >= logins + len(before))
            await asyncio.to_thread(server.execute, "ACL", "SETUSER", "app", f"<{old}")
            await messages.pass_on(10)
            old = new
        assert before <= await asyncio.to_thread(sessions, server)
    assert await asyncio.to_thread(server.refusals) == 0


def sessions(server: RedisServer) -> set[str]:
    """Return the ids of the sessions of all users but the default one."""
    with server.client() as client:
        return {found["id"] for found in client.client_list() if found["user"] != "default"}


def logins_in_place(server: RedisServer) -> int:
    """Return how often AUTH was sent; a new connection sends HELLO instead."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_auth", {"calls": 0})["calls"])


async def test_new_users_interrupt_nobody(
    server: RedisServer,
    load: MakeLoad,
    until: Until,
    rules: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each of 20 changes the old users are deleted when no connection is theirs any more;
    nothing is lost, comes twice, comes out of its sender's order or is refused."""
    # Of a user who is deleted under open connections channels_redis cannot promise that: see
    # test_a_user_deleted_too_early_costs_a_reconnect, and the table in docs/howto/redis.md.
    monkeypatch.setattr(Following, "idle_limit", 3.0)
    store = UsersOnLease(server, rules)
    async with load(store).running() as messages:
        await messages.pass_on(50)
        for number in range(1, 21):
            await messages.refresh()
            await until(lambda number=number: len(store.revoked) >= 3 * number)
            current = {f"v-{3 * number + each}" for each in (1, 2, 3)}
            # Not all three, while one of them connects.
            assert set(await asyncio.to_thread(server.users)) <= current
            await messages.pass_on(10)
    assert len({gone.user for gone in store.revoked}) == 60
    assert await asyncio.to_thread(server.refusals) == 0


async def test_an_idle_connection_keeps_no_user(
    server: RedisServer,
    make: Make,
    until: Until,
    rules: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old user is deleted though nobody uses the connection that is his any more."""
    monkeypatch.setattr(Following, "idle_limit", 0.1)
    store = UsersOnLease(server, rules)
    source = CredentialSource(store)
    layer = make(source)
    await layer.send("asgi-nobody", {"type": "direct"})
    assert await asyncio.to_thread(server.users) == ["v-1"]
    await asyncio.to_thread(source.refresh)
    await until(lambda: store.revoked)
    assert await asyncio.to_thread(server.users) == []
    source.close()


async def test_an_idle_connection_keeps_a_login_while_the_next_is_refused(
    server: RedisServer,
    make: Make,
    until: Until,
    rules: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that works is not closed for one that Redis does not take, and is when it does."""
    monkeypatch.setattr(Following, "idle_limit", 0.1)
    monkeypatch.setattr(policy, "FETCH_SPACING", 0.0)
    store = ScriptedAdapter(FIRST)
    source = CredentialSource(store)
    layer = make(source)
    await layer.send("asgi-nobody", {"type": "direct"})
    before = await asyncio.to_thread(sessions, server)
    assert len(before) == 1
    store.then(SECOND)
    await asyncio.to_thread(source.refresh)
    # Each refusal is a look at an idle connection.
    await until(lambda: server.refusals() >= 2)
    assert await asyncio.to_thread(sessions, server) == before
    server.set_user("app", "second", *rules)
    await until(lambda: not sessions(server))
    await layer.send("asgi-nobody", {"type": "direct"})
    assert len(await asyncio.to_thread(sessions, server)) == 1
    source.close()


@pytest.mark.parametrize("kind", ["core"])
async def test_a_connection_in_use_is_not_idle(
    server: RedisServer, make: Make, until: Until, soon: Soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an answer is under way no rotation closes its connection, however long it takes."""
    monkeypatch.setattr(Following, "idle_limit", 0.1)
    monkeypatch.setattr(policy, "FETCH_SPACING", 0.0)
    looks: list[Following] = []
    look = Following._shed

    def noted(connection: Following) -> None:
        looks.append(connection)
        look(connection)

    monkeypatch.setattr(Following, "_shed", noted)
    store = ScriptedAdapter(FIRST)
    source = CredentialSource(store)
    layer = make(source)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "direct", "n": 0})
    before = await asyncio.to_thread(sessions, server)
    await asyncio.to_thread(server.execute, "ACL", "SETUSER", "app", ">second")
    assert server.pid is not None
    with frozen(server.pid):
        sending = asyncio.create_task(layer.send(channel, {"type": "direct", "n": 1}))
        await asyncio.sleep(0)
        store.then(SECOND)
        await asyncio.to_thread(source.refresh)
        await until(lambda: len(looks) >= 3)
    await asyncio.wait_for(sending, 10)
    assert await asyncio.to_thread(sessions, server) == before
    assert [(await soon(layer, channel))["n"] for _ in range(2)] == [0, 1]
    source.close()


@pytest.mark.parametrize("kind", ["pubsub"])
async def test_a_subscriber_without_subscriptions_keeps_no_user(
    server: RedisServer,
    make: Make,
    until: Until,
    soon: Soon,
    rules: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody reads there when the last consumer has left; it is closed, and the next one served."""
    monkeypatch.setattr(Following, "idle_limit", 0.2)
    store = UsersOnLease(server, rules)
    source = CredentialSource(store)
    layer = make(source)
    channel = await layer.new_channel()
    leaving = asyncio.create_task(layer.receive(channel))
    await until(lambda: subscribed(server, channel))
    leaving.cancel()
    await asyncio.wait([leaving])
    await until(lambda: not subscribed(server, channel))
    await asyncio.to_thread(source.refresh)
    await until(lambda: store.revoked)
    assert "v-1" not in await asyncio.to_thread(server.users)
    channel = await layer.new_channel()
    receiving: asyncio.Future[Any] = asyncio.ensure_future(soon(layer, channel))
    await until(lambda: subscribed(server, channel))
    await layer.send(channel, {"type": "direct"})
    assert await receiving == {"type": "direct"}
    source.close()


async def test_a_user_deleted_too_early_costs_a_reconnect(
    server: RedisServer, make: Make, kind: str, until: Until, soon: Soon, rules: list[str]
) -> None:
    """Sessions end before the store knows; the next login is fetched, and receivers go on."""
    names = iter(["app", "next"])
    store = ScriptedAdapter(lambda: Credentials(user=next(names), password="first"))
    source = CredentialSource(store)
    layer = make(source)
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(soon(layer, channel))
    await until(lambda: server.users().count("app") > 0)
    server.set_user("next", "first", *rules)
    await asyncio.to_thread(server.delete_user, "app")
    await until(lambda: subscribed(server, channel) if kind == "pubsub" else waiting(server))
    await layer.send(channel, {"type": "direct"})
    assert await receiving == {"type": "direct"}
    assert set(await asyncio.to_thread(server.users)) == {"next"}
    assert await asyncio.to_thread(server.refusals) <= 2
    source.close()


def subscribed(server: RedisServer, channel: str) -> bool:
    return bool(server.execute("PUBSUB", "NUMSUB", channel)[1])


def waiting(server: RedisServer) -> bool:
    with server.client() as client:
        return any(
            (found["cmd"], found["user"]) == ("bzpopmin", "next") for found in client.client_list()
        )


async def test_a_store_that_is_ahead_costs_nothing(
    server: RedisServer, load: MakeLoad, until: Until, rules: list[str]
) -> None:
    """Connections keep a login that works while Redis refuses the new one, and move later."""
    store = ScriptedAdapter(FIRST)
    async with load(store).running() as messages:
        await messages.pass_on(20)
        before = await asyncio.to_thread(sessions, server)
        store.then(SECOND)
        await messages.refresh()
        await until(lambda: server.refusals() > 0)
        await messages.pass_on(50)
        refusals = await asyncio.to_thread(server.refusals)
        server.set_user("app", "second", *rules)
        await until(lambda: logins_in_place(server) >= refusals + len(before))
        await messages.pass_on(20)
        assert before <= await asyncio.to_thread(sessions, server)


def test_the_how_to_leads_from_one_login_to_the_next(server: RedisServer) -> None:
    """After its commands the old password and the old user are gone, and the next user is there."""
    page = (Path(__file__).parents[3] / "docs" / "howto" / "redis.md").read_text()
    logins = ["chat:secret", "chat:another", "chat-2:another"]
    accepted = []
    for command in re.findall(r"^ACL .*$", page, re.MULTILINE):
        server.execute(*command.split())
        accepted.append([login for login in logins if accepts(server, *login.split(":"))])
    assert accepted == [logins[:1], logins[:2], logins[1:2], logins[1:], logins[2:]]


def accepts(server: RedisServer, user: str, password: str) -> bool:
    once = Retry(NoBackoff(), 0)
    client = Redis(server.host, server.port, username=user, password=password, retry=once)
    with suppress(AuthenticationError), client:
        return bool(client.ping())
    return False
