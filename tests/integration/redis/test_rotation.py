"""Redis users that change while messages are under way."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from channels_pg_secrets.engines.redis_connection import Following
from pg_secrets import Credentials, CredentialSource, Lease
from pg_secrets.testing.adapter import ScriptedAdapter
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
    """Group messages from one layer to another, numbered and counted."""

    def __init__(self, sender: Any, receiver: Any, until: Until) -> None:
        self.sender, self.receiver, self._until = sender, receiver, until
        self.sent, self.received = 0, list[int]()
        self._ending = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Run until the block ends, and then wait for what is on its way."""
        channel = await self.receiver.new_channel()
        await self.receiver.group_add("group", channel)
        receiving = asyncio.create_task(self._receive(channel))
        sending = self._sending = asyncio.create_task(self._send())
        try:
            yield self
            self._ending = True
            await asyncio.wait_for(sending, 10)
            await self._until(lambda: len(self.received) >= self.sent)
        finally:
            receiving.cancel()
            sending.cancel()
            await asyncio.gather(receiving, sending, return_exceptions=True)
        assert receiving.cancelled(), receiving

    async def pass_on(self, more: int) -> None:
        """Wait until some more messages have arrived."""
        wanted = len(self.received) + more

        def passed_on() -> bool:
            assert not self._sending.done(), self._sending
            return len(self.received) >= wanted

        await self._until(passed_on)

    async def _send(self) -> None:
        while not self._ending:
            await self.sender.group_send("group", {"type": "count", "n": self.sent})
            self.sent += 1
            await asyncio.sleep(0.002)

    async def _receive(self, channel: str) -> None:
        while True:
            self.received.append((await self.receiver.receive(channel))["n"])


@pytest.fixture
def load(make: Make, until: Until) -> Callable[[CredentialSource], Load]:
    """Makes a load between two layers that share a source."""
    return lambda source: Load(make(source), make(source), until)


MakeLoad = Callable[[CredentialSource], Load]


async def test_a_new_password_interrupts_nobody(
    server: RedisServer, load: MakeLoad, until: Until
) -> None:
    """Open connections log in anew in place, nothing is lost or repeated, nothing refused."""
    store = ScriptedAdapter(FIRST)
    source = CredentialSource(store)
    async with load(source).running() as messages:
        await messages.pass_on(50)
        before = await asyncio.to_thread(sessions, server)
        # For a moment both are good, as with every rotation that is planned.
        await asyncio.to_thread(server.execute, "ACL", "SETUSER", "app", ">second")
        store.then(SECOND)
        await asyncio.to_thread(source.refresh)
        await until(lambda: logins_in_place(server) >= len(before))
        await asyncio.to_thread(server.execute, "ACL", "SETUSER", "app", "<first")
        await messages.pass_on(50)
        assert before <= await asyncio.to_thread(sessions, server)
    assert sorted(messages.received) == list(range(messages.sent))
    assert await asyncio.to_thread(server.refusals) == 0
    source.close()


def sessions(server: RedisServer) -> set[str]:
    """Return the ids of the sessions of all users but the default one."""
    with server.client() as client:
        return {found["id"] for found in client.client_list() if found["user"] != "default"}


def logins_in_place(server: RedisServer) -> int:
    """Return how often AUTH was sent; a new connection sends HELLO instead."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_auth", {"calls": 0})["calls"])


async def test_a_new_user_interrupts_nobody(
    server: RedisServer,
    load: MakeLoad,
    until: Until,
    rules: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old user is deleted when no connection is his any more, and no message is lost."""
    monkeypatch.setattr(Following, "idle_limit", 0.5)
    store = UsersOnLease(server, rules)
    source = CredentialSource(store)
    async with load(source).running() as messages:
        await messages.pass_on(50)
        await asyncio.to_thread(source.refresh)
        await until(lambda: store.revoked)
        assert set(await asyncio.to_thread(server.users)) == {"v-2"}
        await messages.pass_on(50)
    assert sorted(messages.received) == list(range(messages.sent))
    assert [revoked.user for revoked in store.revoked] == ["v-1"]
    assert await asyncio.to_thread(server.refusals) == 0
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
    source = CredentialSource(store)
    async with load(source).running() as messages:
        await messages.pass_on(20)
        before = await asyncio.to_thread(sessions, server)
        store.then(SECOND)
        await asyncio.to_thread(source.refresh)
        await until(lambda: server.refusals() > 0)
        await messages.pass_on(50)
        refusals = await asyncio.to_thread(server.refusals)
        server.set_user("app", "second", *rules)
        await until(lambda: logins_in_place(server) >= refusals + len(before))
        await messages.pass_on(20)
        assert before <= await asyncio.to_thread(sessions, server)
    assert sorted(messages.received) == list(range(messages.sent))
    source.close()


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
