"""Credentials change while messages flow: none is lost, none comes twice, all in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import supervisor
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from pg_secrets.credentials import Credentials
from pg_secrets.registry import credential_source
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import Login
from pg_secrets.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Stream

    Eventually = Callable[..., Awaitable[Any]]


class Store:
    """A store whose value and database can be changed one before the other."""

    def __init__(self, login: Login) -> None:
        self.adapter = ScriptedAdapter(_credentials(login))
        self.source = CredentialSource(self.adapter, ttl=0.2)

    def put(self, login: Login) -> None:
        """The store has this login from now on; the source finds out by itself."""
        self.adapter.then(_credentials(login))


def _credentials(login: Login) -> Credentials:
    return Credentials(user=login.user, password=login.password)


@pytest.fixture
def store(layers: Layers) -> Iterator[Store]:
    """Holds the login of ``layers``."""
    made = Store(layers.login)
    yield made
    made.source.close()


async def test_the_database_changes_before_the_store(
    layers: Layers, store: Store, stream: type[Stream], eventually: Eventually
) -> None:
    """A password changed and sessions ended in the database, the store following later: no loss."""
    database = layers.database
    sender, receiver = (layers(credentials=store.source) for _ in range(2))
    channel = await receiver.new_channel()
    async with stream(sender, receiver, channel) as flow:
        await flow.more()
        changed = database.set_password(layers.login.user)
        assert database.terminate(layers.login.user) >= 4
        await asyncio.sleep(0.3)
        store.put(changed)
        await flow.more(50)
    assert sender.stats()["connects"] >= 4


async def test_the_store_changes_before_the_database(
    layers: Layers, store: Store, stream: type[Stream], eventually: Eventually
) -> None:
    """While the store's new password is not yet the database's, the old sessions serve on."""
    database = layers.database
    sender, receiver = (layers(credentials=store.source) for _ in range(2))
    channel = await receiver.new_channel()
    changed = Login(layers.login.user, "the-next-password")
    async with stream(sender, receiver, channel) as flow:
        await flow.more()
        store.put(changed)
        await eventually(lambda: store.source.stats()["rejections"] > 0)
        await flow.more()
        database.set_password(changed.user, changed.password)
        await eventually(
            lambda: min(layer.stats()["hand_overs"] for layer in (sender, receiver)) >= 2
        )
        await flow.more()
        assert database.terminate(layers.login.user) >= 4
        await flow.more(50)


async def test_another_user(
    layers: Layers, store: Store, stream: type[Stream], eventually: Eventually
) -> None:
    """After a rotation to another user no session of the old one is left, and nothing was lost."""
    sender, receiver = (layers(credentials=store.source) for _ in range(2))
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    async with stream(sender, receiver, channel, group="group") as flow:
        for _ in range(2):
            before, login = layers.login, layers.database.login()
            layers.login = login
            store.put(login)
            await eventually(lambda: layers.backends(before.user) == 0)  # noqa: B023
            await flow.more()
            assert layers.backends(login.user) == 4
    assert sender.stats()["hand_overs"] >= 4


async def test_a_dropped_role_is_noticed(
    layers: Layers,
    store: Store,
    stream: type[Stream],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sessions whose role was dropped under them, as Vault does it, move to the next login."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.2)
    database, dropped = layers.database, layers.login
    sender, receiver = (layers(credentials=store.source) for _ in range(2))
    channel = await receiver.new_channel()
    layers.login = database.login()
    async with stream(sender, receiver, channel) as flow:
        await flow.more()
        database.execute(f'DROP ROLE "{dropped.user}"')
        store.put(layers.login)
        await eventually(lambda: layers.backends() == 4)
        await flow.more()


async def test_at_most_four_connections(
    layers: Layers, store: Store, stream: type[Stream], eventually: Eventually
) -> None:
    """A process holds two connections, and never more than four during a rotation."""
    sender, receiver = layers(credentials=store.source), layers()
    channel = await receiver.new_channel()
    users = [layers.login.user]
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY(%s) AND usename <> %s"
    receivers = layers.login.user
    first = layers.database.login()
    store.put(first)
    users.append(first.user)
    most = 0
    done = False

    async def watch() -> None:
        nonlocal most
        with layers.database.server.connect() as connection:
            while not done:
                ((count,),) = connection.execute(query, (users, receivers)).fetchall()
                most = max(most, count)
                await asyncio.sleep(0.001)

    async with stream(sender, receiver, channel) as flow:
        await eventually(lambda: layers.backends(first.user) == 2)
        watching = asyncio.create_task(watch())
        for _ in range(3):
            login = layers.database.login()
            users.append(login.user)
            store.put(login)
            await eventually(lambda: layers.backends(login.user) == 2)  # noqa: B023
            await eventually(lambda: sum(map(layers.backends, users[1:])) == 2)
        await flow.more()
        done = True
        await watching
    assert 2 <= most <= 4


class Watched(PostgresEngine):
    """Counts how many connections are being opened at once."""

    opening = 0
    most = 0

    async def connect(self, **params: Any) -> psycopg.AsyncConnection[Any]:
        """Connect as ever."""
        self.opening += 1
        self.most = max(self.most, self.opening)
        try:
            return await super().connect(**params)
        finally:
            self.opening -= 1


async def test_connections_move_one_after_the_other_and_rehearse_without_a_trace(
    layers: Layers, store: Store, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Each login takes the CPU that messages need; and a rehearsal writes and tells nothing."""
    engine = Watched(layers.settings(None, store.source), store.source)
    layer = engine.channel_layer(prefix=layers.prefix)
    assert isinstance(layer, PostgresChannelLayer)
    layers.made.append(layer)
    await layer.new_channel()
    await eventually(lambda: len(layer.stats()["connected"]) == 2)
    engine.most = 0
    for _ in range(3):
        login = layers.database.login()
        store.put(login)
        await eventually(lambda: layers.backends(login.user) == 2)  # noqa: B023
    assert engine.most == 1
    query = "SELECT count(*) FROM channels_pg_secrets_message WHERE sender < 0"
    assert layers.database.execute(query) == [(0,)]
    # A notification that is no frame would be reported.
    assert "not ours" not in caplog.text


async def test_a_process_that_stops_in_a_rehearsal_holds_no_locks(
    layers: Layers, store: Store, eventually: Eventually
) -> None:
    """Others would wait for its row when they sweep: the server ends its session."""
    database = layers.database
    with FaultProxy(database.server.port) as proxy:
        settings = {**layers.settings(None, store.source), "PORT": proxy.port}
        layer = PostgresEngine(settings, store.source).channel_layer(prefix=layers.prefix)
        assert isinstance(layer, PostgresChannelLayer)
        layers.made.append(layer)
        channel = await layer.new_channel()
        await eventually(lambda: len(layer.stats()["connected"]) == 2)
        node = int(layer.stats()["node"], 16)
        state = (
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)"
            " WHERE a.usename = %s AND l.locktype = 'advisory' AND NOT l.granted"
        )
        left = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND xact_start IS NOT NULL"
        login = database.login()
        with database.server.connect(database.name) as locking:
            # Its rehearsal waits for this, and is answered while nothing passes.
            locking.execute("SELECT pg_advisory_lock(%s)", (-node,))
            store.put(login)
            await eventually(lambda: database.execute(state, (login.user,)) == [(1,)])
            proxy.hold()
        await eventually(lambda: database.execute(left, (login.user,)) == [(0,)], 5.0)
        proxy.release()
        await layer.send(channel, {"type": "test"})
        assert await asyncio.wait_for(layer.receive(channel), 10) == {"type": "test"}


async def test_passwords_from_a_file(
    layers: Layers, stream: type[Stream], eventually: Eventually, tmp_path: Path
) -> None:
    """A file with another user's login is followed without a message lost."""
    secret, before = tmp_path / "login.json", layers.login
    _write(secret, before)
    source = credential_source({"ADAPTER": "files", "PATH": str(secret), "TTL": 1})
    sender, receiver = (layers(credentials=source) for _ in range(2))
    channel = await receiver.new_channel()
    async with stream(sender, receiver, channel) as flow:
        layers.login = layers.database.login()
        _write(secret, layers.login)
        layers.database.set_password(before.user)
        layers.database.terminate(before.user)
        await eventually(lambda: layers.backends() == 4)
        await flow.more()
    source.close()


def _write(path: Path, login: Login) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"username": login.user, "password": login.password}))
    new.replace(path)


async def test_everything_else_survives_a_rotation(
    layers: Layers, store: Store, eventually: Eventually
) -> None:
    """Groups, waiting messages and pending receives are as they were after a rotation."""
    here, there = (layers(credentials=store.source) for _ in range(2))
    waiting, member = await there.new_channel(), await there.new_channel()
    await there.group_add("group", member)
    await here.send(waiting, {"type": "waiting"})
    normal = asyncio.create_task(there.receive("normal"))
    query = "SELECT channel FROM channels_pg_secrets_reader WHERE prefix = %s"
    await eventually(lambda: layers.database.execute(query, (layers.prefix,)))
    changed = layers.database.set_password(layers.login.user)
    store.put(changed)
    layers.database.terminate(changed.user)
    await here.group_send("group", {"type": "group"})
    await here.send("normal", {"type": "normal"})
    for task, kind in (
        (there.receive(waiting), "waiting"),
        (there.receive(member), "group"),
        (normal, "normal"),
    ):
        assert await asyncio.wait_for(task, 10) == {"type": kind}
