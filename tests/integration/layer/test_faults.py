"""Faults that were found by hunting for them: each stays mended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import homes, supervisor
from channels_pg_secrets.layer import node as node_module
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.layer.wire import WireLost
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.process import frozen
from pg_secrets.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]
    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

SEND = "SELECT channels_pg_secrets_send_v1(%s, %s::jsonb, %s)"
GROUP_SEND = "SELECT channels_pg_secrets_group_send_v1(%s, %s::jsonb, %s)"
LOCK = "LOCK TABLE channels_pg_secrets_"
#: As they were called with bare literals, for which these are the better match.
OVERLOADS = (
    "emit_v1(smallint, bigint, integer, integer, text, integer)",
    "store_v1(smallint, integer, bigint, bytea, double precision)",
    "enqueue_v1(text, text, integer, text, text, double precision)",
)
OVERLOAD = """
    CREATE FUNCTION public.channels_pg_secrets_{} RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'a stranger''s code runs as %', current_user; END $$
"""


@pytest.fixture
async def user(layers: Layers) -> AsyncIterator[Connection]:
    """A connection of the runtime role, in a transaction as soon as it does something."""
    params = layers.database.connection_params(layers.login)
    async with await psycopg.AsyncConnection.connect(**params) as connection:
        yield connection


@asynccontextmanager
async def transaction(database: FreshDatabase, statement: str = "SELECT 1") -> AsyncIterator[Any]:
    """A transaction of the owner that begins with a statement; it ends with the block."""
    async with await psycopg.AsyncConnection.connect(**database.connection_params()) as owner:
        await owner.execute(statement.encode())
        yield owner


def blocked(database: FreshDatabase, text: str) -> int:
    """How many statements with this in their text wait for a lock."""
    query = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND position(%s IN query) > 0
    """
    return int(database.execute(query, (text,))[0][0])


def supervisor_of(layer: PostgresChannelLayer) -> supervisor.Supervisor:
    """What keeps the layer's connections."""
    home = layer._here().homes.current
    assert home is not None
    assert home.supervisor is not None
    return home.supervisor


async def settled(layer: PostgresChannelLayer, eventually: Eventually) -> str:
    """Let a layer come to rest, at home in this loop; returns a channel of it."""
    channel = await layer.new_channel()

    def at_rest() -> bool:
        found = supervisor_of(layer)
        wire = found.publisher.wire
        quiet = found._next_heartbeat > time.monotonic() + 1
        return len(found.connected) == 2 and quiet and wire is not None and wire.idle

    await eventually(at_rest)
    return channel


async def test_who_joins_while_the_last_leave_is_written_is_heard(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """A group whose only member left during its own join is heard again after the next join."""
    layer, database = layers(), layers.database
    gone, heard = await settled(layer, eventually), await layer.new_channel()
    lock = LOCK + "member IN SHARE MODE"
    async with transaction(database, lock) as first, transaction(database) as second:
        adding = asyncio.create_task(layer.group_add("group", gone))
        await eventually(lambda: blocked(database, "members_v1"))
        await layer.group_discard("group", gone)
        # Locks are granted in turn: the add gets by, and the delete behind it does not.
        queued = asyncio.create_task(second.execute(lock.encode()))
        await eventually(lambda: blocked(database, "LOCK TABLE"))
        await first.commit()
        await asyncio.gather(adding, queued)
        await eventually(lambda: blocked(database, "members_v1"))
        joining = asyncio.create_task(layer.group_add("group", heard))
        await asyncio.sleep(0)
    await joining
    await layers().group_send("group", {"type": "test"})
    assert await soon(layer, heard) == {"type": "test"}


async def test_a_worker_that_closes_while_it_claims_loses_nothing(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """A message that is claimed for a receiver that has gone goes to another process."""
    worker, other = layers(), layers()
    await settled(worker, eventually)
    await other.send("work", {"type": "test"})
    async with transaction(layers.database, LOCK + "queue IN EXCLUSIVE MODE"):
        receiving = asyncio.create_task(worker.receive("work"))
        await eventually(lambda: blocked(layers.database, "claim_v1"))
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        closing = asyncio.create_task(worker.close())
        await asyncio.sleep(0.01)  # it waits for the claim by now
    await closing
    assert await soon(other, "work") == {"type": "test"}


async def test_a_large_message_that_was_refused_is_read_again(
    own_layers: Layers, soon: Soon, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """A large message that the server would not hand over arrives in its place when it does."""
    here, there, database = own_layers(), own_layers(), own_layers.database
    channel = await settled(there, eventually)
    function = "EXECUTE ON FUNCTION channels_pg_secrets_blobs_v1"
    database.execute(f"REVOKE {function} FROM {database.runtime}")
    await here.send(channel, {"n": 1, "data": b"x" * 20_000})
    await here.send(channel, {"n": 2})
    await eventually(lambda: "permission denied" in caplog.text)
    database.execute(f"GRANT {function} TO {database.runtime}")
    assert [(await soon(there, channel))["n"] for _ in range(2)] == [1, 2]


async def test_an_open_transaction_that_has_sent_holds_up_no_other_channel(
    layers: Layers,
    user: Connection,
    soon: Soon,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose channel an open transaction has sent to can still send elsewhere."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.2)
    worker, other, database = layers(), layers(), layers.database
    channel = await other.new_channel()
    await worker.new_channel()
    await user.execute(SEND, ("work", '{"type": "work"}', layers.prefix))
    receiving = asyncio.create_task(worker.receive("work"))
    readers = "SELECT FROM channels_pg_secrets_reader WHERE prefix = %s"
    await eventually(
        lambda: blocked(database, "read_v1") or database.execute(readers, (layers.prefix,))
    )
    await asyncio.wait_for(worker.send(channel, {"type": "elsewhere"}), 5)
    assert await soon(other, channel) == {"type": "elsewhere"}
    await user.commit()
    assert await asyncio.wait_for(receiving, 10) == {"type": "work"}


async def test_an_overload_made_by_somebody_else_is_not_run(own_layers: Layers, soon: Soon) -> None:
    """Where others may create functions in our schema, ours do not call theirs."""
    database, prefix = own_layers.database, own_layers.prefix
    mallory = database.login()
    database.execute(f"GRANT CREATE ON SCHEMA public TO {mallory.user}")
    params = database.connection_params(mallory)
    async with await psycopg.AsyncConnection.connect(**params, autocommit=True) as connection:
        for signature in OVERLOADS:
            await connection.execute(OVERLOAD.format(signature).encode())
        here, there = own_layers(), own_layers()
        channel = await there.new_channel()
        await there.group_add("group", channel)
        await there.group_add("group", "work")
        receiving = asyncio.create_task(there.receive("work"))
        await here.group_send("group", {"type": "group"})
        assert await soon(there, channel) == {"type": "group"}
        assert await asyncio.wait_for(receiving, 10) == {"type": "group"}
        for text in ("small", "x" * 10_000):
            message = {"type": text}
            await connection.execute(SEND, (channel, json.dumps(message), prefix))
            await connection.execute(SEND, ("work", json.dumps(message), prefix))
            assert await soon(there, channel) == await soon(there, "work") == message
            await connection.execute(GROUP_SEND, ("group", json.dumps(message), prefix))
            assert await soon(there, channel) == await soon(there, "work") == message
        await here.flush()


async def test_a_ghost_that_comes_after_its_retry_queues_nothing_twice(
    layers: Layers, eventually: Eventually
) -> None:
    """A batch whose connection was given up, and which is carried out last, is not queued again."""
    layer, database = layers(), layers.database
    await settled(layer, eventually)
    await layer.send("work", {"n": 0})
    publisher = supervisor_of(layer).publisher
    wire = publisher.wire
    assert wire is not None
    pid = wire.opened.connection.info.backend_pid
    with frozen(pid):
        sending = asyncio.create_task(layer.send("work", {"n": 1}))
        await eventually(lambda: not publisher.settled.is_set())
        wire.abandon(WireLost("the network is gone"))
        await asyncio.wait_for(sending, 10)
    backend = "SELECT FROM pg_stat_activity WHERE pid = %s"
    await eventually(lambda: not database.execute(backend, (pid,)))
    queued = "SELECT count(*) FROM channels_pg_secrets_queue WHERE prefix = %s"
    assert database.execute(queued, (layers.prefix,)) == [(2,)]


async def test_a_closed_layer_opens_no_connections_for_those_who_still_receive(
    layers: Layers, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receive() that is pending when its layer is closed does not bring the node back."""
    monkeypatch.setattr(homes, "STUCK", 0.05)
    layer = layers()
    receiving = asyncio.create_task(layer.receive(await settled(layer, eventually)))
    await asyncio.sleep(0)
    node = layer._here()
    await layer.close()
    await eventually(lambda: layers.backends() == 0)
    await asyncio.sleep(0.3)  # for the watch that might bring it back
    assert node.homes.current is None
    assert layers.backends() == 0
    receiving.cancel()


async def test_a_send_that_is_pending_when_its_layer_closes_ends(
    layers: Layers, proxy: FaultProxy, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close() while the database does not answer makes pending sends raise."""
    monkeypatch.setattr(node_module, "LEAVE_TIMEOUT", 0.1)
    engine = PostgresEngine({**layers.settings(), "PORT": proxy.port})
    layer = engine.channel_layer(prefix=layers.prefix)
    assert isinstance(layer, PostgresChannelLayer)
    layers.made.append(layer)
    await settled(layer, eventually)
    channel = await layers().new_channel()
    proxy.hold_answers()
    sending = asyncio.create_task(layer.send(channel, {"type": "test"}))
    await eventually(lambda: not supervisor_of(layer).publisher.settled.is_set())
    await layer.close()
    with pytest.raises(ChannelLayerUnavailable, match="closed"):
        await asyncio.wait_for(sending, 5)


async def test_after_a_long_outage_the_first_to_come_back_sweeps_nobody(
    own_layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """When nobody could report for an hour, a node's first heartbeat leaves the others' rows."""
    here, there, database = own_layers(), own_layers(), own_layers.database
    channel = await settled(there, eventually)
    await there.group_add("group", channel)
    await settled(here, eventually)
    dated = """
        SELECT table_name::text, column_name::text FROM information_schema.columns
        WHERE table_name IN ('channels_pg_secrets_node', 'channels_pg_secrets_state')
        AND data_type = 'timestamp with time zone'
    """
    columns = database.execute(dated)
    # In one transaction, so that no heartbeat of theirs comes between.
    with database.server.connect(database.name) as connection, connection.transaction():
        for table, column in columns:
            earlier = f"UPDATE {table} SET {column} = {column} - interval '1 hour'"
            connection.execute(earlier.encode())
        heartbeat = "SELECT channels_pg_secrets_heartbeat_v1(%s, %s)"
        connection.execute(heartbeat, (here._here().identity.node, supervisor.STALE))
    await here.group_send("group", {"type": "test"})
    assert await soon(there, channel) == {"type": "test"}


async def test_json_that_is_nested_too_deeply_does_not_end_a_worker(
    layers: Layers, user: Connection, soon: Soon
) -> None:
    """receive() passes over a message from SQL that Python cannot parse for its depth."""
    layer = layers()
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    for name in (await layer.new_channel(), "work"):
        for message in (deep, '{"n": 1}'):
            await user.execute(SEND, (name, message, layers.prefix))
        await user.commit()
        assert await soon(layer, name) == {"n": 1}


async def test_a_missing_grant_does_not_make_a_storm_of_connections(own_layers: Layers) -> None:
    """A session that may not publish is replaced at a bounded rate, not at once and for ever."""
    here, there, database = own_layers(send_timeout=1.5), own_layers(), own_layers.database
    channel = await there.new_channel()
    await here.send(channel, {"type": "test"})
    for name in ("publish_v1", "publish_frame_v1", "publish_group_v1"):
        function = f"FUNCTION channels_pg_secrets_{name}"
        database.execute(f"REVOKE EXECUTE ON {function} FROM {database.runtime}")
    before = here.stats()["connects"]
    with pytest.raises(ChannelLayerUnavailable):
        await here.send(channel, {"type": "test"})
    assert 0 < here.stats()["connects"] - before <= 20


async def test_a_heartbeat_that_times_out_costs_no_connection(
    own_layers: Layers, eventually: Eventually
) -> None:
    """A heartbeat that the server cancels says nothing about the session, which is kept."""
    layers, database = own_layers, own_layers.database
    database.execute(f"ALTER ROLE {layers.login.user} SET statement_timeout = '300ms'")
    layer = layers()
    await settled(layer, eventually)
    before = layer.stats()["connects"]
    async with transaction(database, LOCK + "node IN SHARE MODE"):
        supervisor_of(layer)._next_heartbeat = 0.0
        await eventually(lambda: blocked(database, "heartbeat_v1"))
        await eventually(lambda: not blocked(database, "heartbeat_v1"))
    await settled(layer, eventually)
    assert layer.stats()["connects"] == before
