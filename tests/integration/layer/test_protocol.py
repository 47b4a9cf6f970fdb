"""The rules of the protocol, each where the first idea fails (docs/explanation/protocol.md)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from channels.exceptions import ChannelFull

from channels_pg_secrets.engines import PostgresEngine, postgres
from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import listener, statements, supervisor
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.layer.listener import Listener
from channels_pg_secrets.layer.node import Node
from channels_pg_secrets.layer.wire import Wire, WireLost
from channels_pg_secrets.sql import install
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.proxy import FaultProxy

Layers = Callable[..., PostgresChannelLayer]

both_sizes = pytest.mark.parametrize("size", [1, 10_000], ids=["small", "large"])


@pytest.fixture
def installed(database: FreshDatabase) -> FreshDatabase:
    """A database with our tables and functions."""
    with psycopg.connect(**database.connection_params(), autocommit=True) as connection:
        for name in ("tables.sql", "internals_v1.sql", "functions_v1.sql"):
            connection.execute(install.read(name).replace("@schema@", "public"))
    return database


@pytest.fixture
async def layers(installed: FreshDatabase, proxy: FaultProxy) -> AsyncIterator[Layers]:
    """Makes layers; each is a node of its own, as if it were in another process."""
    made: list[PostgresChannelLayer] = []

    def make(port: int | None = None, **options: Any) -> PostgresChannelLayer:
        settings = installed.settings(installed.owner)
        engine = PostgresEngine({**settings, "PORT": port or settings["PORT"]})
        layer = PostgresChannelLayer(engine, **options)
        made.append(layer)
        return layer

    yield make
    await asyncio.gather(*(layer.close() for layer in made))


@pytest.fixture
def proxy(installed: FreshDatabase, home_stays: None) -> Iterator[FaultProxy]:
    """Between a layer and its server."""
    with FaultProxy(installed.server.port) as fault_proxy:
        yield fault_proxy


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


async def soon(awaitable: Awaitable[Any], seconds: float = 10.0) -> Any:
    """Wait for a result, but not for ever."""
    return await asyncio.wait_for(awaitable, seconds)


async def drain(layer: PostgresChannelLayer, channel: str, count: int = 0) -> list[Any]:
    """So many messages, however long they take, and whatever else comes right after them."""
    found: list[Any] = []
    while True:
        patience = 20.0 if len(found) < count else 0.3
        try:
            message = await asyncio.wait_for(layer.receive(channel), patience)
        except (TimeoutError, asyncio.TimeoutError):
            return found
        found.append(message["n"])


def node_of(layer: PostgresChannelLayer) -> Node:
    """The layer's node."""
    node = layer._here()
    assert isinstance(node, Node)
    return node


def supervisor_of(layer: PostgresChannelLayer) -> supervisor.Supervisor:
    """What keeps the layer's connections."""
    home = node_of(layer).homes.current
    assert home is not None
    assert home.supervisor is not None
    return home.supervisor


async def connected(layer: PostgresChannelLayer) -> None:
    """Wait until a layer has both its connections."""
    await until(lambda: len(layer.stats()["connected"]) == 2)


async def settled(layer: PostgresChannelLayer) -> None:
    """Wait until a layer has both its connections and asks nothing of the database."""
    await connected(layer)
    publishing = supervisor_of(layer).publisher
    await until(lambda: publishing.settled.is_set() and publishing.wire and publishing.wire.idle)


def refuse_messages(database: FreshDatabase, text: str, state: str) -> None:
    """Have each row of a message fail, and the sequence ``tries`` count them."""
    database.execute(
        "CREATE SEQUENCE tries; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS $$ BEGIN PERFORM nextval('public.tries');"
        f" RAISE EXCEPTION '{text}' USING ERRCODE = '{state}'; END $$"
    )
    for slice_ in range(3):
        database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON channels_pg_secrets_message_{slice_}"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


async def move_connections(layer: PostgresChannelLayer) -> None:
    """Make a layer move to new connections, as it does on rotation, and wait until it has."""
    await connected(layer)
    before = layer.stats()["hand_overs"]
    for link in supervisor_of(layer)._links:
        link.replace = True
    supervisor_of(layer).wake()
    await until(lambda: layer.stats()["hand_overs"] >= before + 2)


# 1. Sequence and watermark


async def test_a_frame_that_comes_twice_is_delivered_once(
    layers: Layers, installed: FreshDatabase
) -> None:
    """A notification with a number that is not above the watermark is dropped."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    listen = f'LISTEN "{node_of(receiver).identity.notify_channel}"'
    async with await psycopg.AsyncConnection.connect(
        **installed.connection_params(), autocommit=True
    ) as eavesdropper:
        await eavesdropper.execute(listen.encode())
        await sender.send(channel, {"n": 1})
        heard = [notification async for notification in eavesdropper.notifies(timeout=1)]
        for notification in heard:
            await eavesdropper.execute(
                "SELECT pg_notify(%s, %s)", (notification.channel, notification.payload)
            )
    assert len(heard) == 1
    await sender.send(channel, {"n": 2})
    assert await drain(receiver, channel, 2) == [1, 2]


# 2. Batches in doubt


async def test_a_batch_whose_ghost_commits_late_arrives_once(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """A retry waits for the transaction of its first try and finds that it has been done."""
    sender, receiver = layers(port=proxy.port), layers()
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": 0})
    with psycopg.connect(**installed.connection_params()) as blocker:
        blocker.execute("SELECT pg_advisory_xact_lock(%s)", (node_of(sender).identity.node,))
        sending = asyncio.create_task(sender.send(channel, {"n": 1}))
        await until(lambda: waiting_for_locks(installed) == 1)
        proxy.reset()  # the backend that waits for the lock does not notice
        await until(lambda: waiting_for_locks(installed) == 2)
        blocker.rollback()
        await soon(sending)
    await sender.send(channel, {"n": 2})
    assert await drain(receiver, channel, 3) == [0, 1, 2]


async def test_a_batch_whose_reply_was_lost_arrives_once(layers: Layers, proxy: FaultProxy) -> None:
    """A batch that was committed, but whose answer never came, is not published again."""
    sender, receiver = layers(port=proxy.port), layers()
    channel, work = await receiver.new_channel(), "work"
    # All kinds of statement are prepared while answers still come: the first message to a process
    # is not yet one sealed by its sender.
    other = await receiver.new_channel()
    for _ in range(2):
        await sender.send(other, {"n": 0})
        await settled(sender)
    await sender.send(channel, {"n": 0})
    await sender.send(work, {"n": 0})
    await settled(sender)
    proxy.hold_answers()
    sending = [asyncio.create_task(sender.send(to, {"n": 1})) for to in (channel, work)]
    received = [await soon(receiver.receive(channel)) for _ in range(2)]
    assert [message["n"] for message in received] == [0, 1]
    assert not sending[0].done()
    proxy.reset()
    proxy.release_answers()
    await soon(asyncio.gather(*sending))
    await sender.send(channel, {"n": 2})
    await sender.send(work, {"n": 2})
    assert await drain(receiver, channel, 1) == [2]
    assert await drain(receiver, work, 3) == [0, 1, 2]


async def test_a_batch_that_never_arrived_is_sent_again(
    layers: Layers, proxy: FaultProxy, eventually: Callable[..., Awaitable[Any]]
) -> None:
    """The row of the batch before it is no ghost of a batch that the server never saw."""
    sender, receiver = layers(port=proxy.port), layers()
    channel = await receiver.new_channel()
    for number in range(2):
        await sender.send(channel, {"n": number})
        await settled(sender)
    proxy.swallow()
    sending = asyncio.create_task(sender.send(channel, {"n": 2}))
    await eventually(lambda: bool(sender._here().outbox._batches))
    proxy.spit()
    for link in supervisor_of(sender)._links:
        assert link.wire is not None
        link.wire.abandon(WireLost("given up"))
    await soon(sending)
    await sender.send(channel, {"n": 3})
    assert await drain(receiver, channel, 4) == [0, 1, 2, 3]


async def test_a_batch_in_doubt_that_meets_its_ghost_is_not_sent_without_a_pause(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """Whose rows are said to be there, and are not found, is looked for again and again, slowly."""
    sender, receiver = layers(port=proxy.port), layers()
    channel = await receiver.new_channel()
    for number in range(2):
        await sender.send(channel, {"n": number})
        await settled(sender)
    refuse_messages(installed, "a ghost", "unique_violation")
    proxy.swallow()
    sending = asyncio.create_task(sender.send(channel, {"n": 2}))
    await until(lambda: bool(node_of(sender).outbox._batches))
    proxy.spit()
    for link in supervisor_of(sender)._links:
        assert link.wire is not None
        link.wire.abandon(WireLost("given up"))
    tries = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries"
    await until(lambda: installed.execute(tries)[0][0] >= 1)
    began = time.monotonic()
    await until(lambda: installed.execute(tries)[0][0] >= 8)
    assert time.monotonic() - began > 0.5
    installed.execute("DROP FUNCTION refuse() CASCADE")
    await soon(sending)
    assert await drain(receiver, channel, 3) == [0, 1, 2]


async def test_a_retry_adds_nothing_for_who_joined_after_its_ghost(
    layers: Layers, proxy: FaultProxy
) -> None:
    """A batch that was done is left as it is, though its group has another member since."""
    # Written again, the message to the group would share a frame with the one to the channel, under
    # a number that the receiver has not seen: it could not tell that it has the latter already.
    sender, receiver = layers(port=proxy.port), layers()
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": 0})
    await settled(sender)
    publisher = supervisor_of(sender).publisher
    publisher.hold()  # so that both go in one batch
    sending = [
        asyncio.create_task(sender.send(channel, {"n": 1})),
        asyncio.create_task(sender.group_send("group", {"n": 2})),
    ]
    await until(lambda: len(node_of(sender).outbox._queue) == 2)
    proxy.hold_answers()
    publisher.release()
    assert [(await soon(receiver.receive(channel)))["n"] for _ in range(2)] == [0, 1]
    await receiver.group_add("group", channel)
    assert not any(task.done() for task in sending)
    proxy.reset()
    proxy.release_answers()
    await soon(asyncio.gather(*sending))
    await sender.send(channel, {"n": 3})
    assert await drain(receiver, channel, 1) == [3]


async def test_who_is_refused_waits_and_nobody_else(
    layers: Layers, installed: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """What else succeeds neither waits for what the server refuses for now, nor ends its pauses."""
    sender, receiver = layers(), layers()
    channel, own = await receiver.new_channel(), await sender.new_channel()
    await sender.send(channel, {"n": 0})
    refuse_messages(installed, "could not extend", "disk_full")
    sending = asyncio.create_task(sender.send(channel, {"n": 1}))
    await until(lambda: "refuses work" in caplog.text)
    for number in range(60):
        await soon(sender.group_add(f"group{number}", own))
    tries = installed.execute("SELECT last_value FROM tries")[0][0]
    installed.execute("DROP FUNCTION refuse() CASCADE")
    await soon(sending)
    assert await drain(receiver, channel, 2) == [0, 1]
    assert caplog.text.count("refuses work") == 1
    assert tries < 30  # half a second apart in the end, not one for each group


@both_sizes
async def test_one_bad_message_fails_alone(
    layers: Layers, installed: FreshDatabase, size: int
) -> None:
    """When the server refuses a batch, it is split until only what it will not have fails."""
    sender, receiver = layers(), layers()
    installed.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'not this one' USING ERRCODE = '22000'; END $$"
    )
    installed.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON channels_pg_secrets_queue FOR EACH ROW"
        " WHEN (NEW.channel = 'bad') EXECUTE FUNCTION refuse()"
    )
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": -1})
    padding = b"x" * size
    targets = ["bad" if n == 7 else channel if n % 2 else "good" for n in range(20)]
    sends = [sender.send(to, {"n": n, "padding": padding}) for n, to in enumerate(targets)]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [7]
    assert isinstance(outcomes[7], ChannelLayerUnavailable)
    assert await drain(receiver, channel, 10) == [-1, 1, 3, 5, 9, 11, 13, 15, 17, 19]
    assert await drain(receiver, "good", 10) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


async def test_one_batch_of_a_sender_is_in_flight_at_a_time(
    layers: Layers, installed: FreshDatabase
) -> None:
    """While a batch waits, what is sent meanwhile queues up behind it and arrives in order."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": 0})
    with psycopg.connect(**installed.connection_params()) as blocker:
        blocker.execute("SELECT pg_advisory_xact_lock(%s)", (node_of(sender).identity.node,))
        sends = []
        for number in range(1, 40):
            sends.append(asyncio.create_task(sender.send(channel, {"n": number})))
            await asyncio.sleep(0)
        await until(lambda: waiting_for_locks(installed) == 1)
        blocker.rollback()
        await soon(asyncio.gather(*sends))
    assert await drain(receiver, channel, 40) == list(range(40))


# 3. Hand-over of the listener


async def test_moving_to_new_connections_under_load_loses_and_repeats_nothing(
    layers: Layers,
) -> None:
    """Twenty hand-overs of both sides' connections while messages flow: all arrive, in order."""
    sender, receiver = layers(), layers(capacity=100_000)
    await sender.new_channel()  # this loop is home from the start
    channel = await receiver.new_channel()
    received: list[int] = []
    stop = asyncio.Event()

    async def receive() -> None:
        while True:
            received.append((await receiver.receive(channel))["n"])

    async def send() -> int:
        number = 0
        while not stop.is_set():
            await asyncio.gather(*(sender.send(channel, {"n": number + i}) for i in range(20)))
            number += 20
        return number

    receiving, sending = asyncio.create_task(receive()), asyncio.create_task(send())
    await until(lambda: received)
    for layer in [receiver, sender] * 10:
        await move_connections(layer)
    stop.set()
    sent = await soon(sending)
    await until(lambda: len(received) >= sent)
    receiving.cancel()
    assert received == list(range(sent))
    assert sent > 500


def test_a_backlog_reads_what_is_new_and_no_more(installed: FreshDatabase) -> None:
    """Or each hand-over would hold up messages for as long as it takes to read a minute of them."""
    params = installed.connection_params()
    with psycopg.connect(**params) as connection:
        for table, sender, first, last in ((0, 8, 1, 3000), (0, 9, 1, 3000), (1, 9, 3001, 3002)):
            connection.execute(
                f"INSERT INTO channels_pg_secrets_message_{table}"
                " (node, sender, seq, expires, body)"
                " SELECT 7, %s, n, now() + interval '1 minute', 'x'"
                " FROM generate_series(%s::int, %s) n",
                (sender, first, last),
            )
    with psycopg.connect(**params) as connection:
        rows = connection.execute(
            "SELECT sender, seq FROM channels_pg_secrets_backlog_v1("
            "7, ARRAY[8, 9], ARRAY[2999, 2998], -1, -1, false, 500)"
        ).fetchall()
        assert rows == [(8, 3000), (9, 2999), (9, 3000), (9, 3001), (9, 3002)]
        ((read,),) = connection.execute(
            "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables"
            " WHERE relname LIKE 'channels_pg_secrets_message%'"
        ).fetchall()
        assert read < 50


async def test_a_backlog_of_many_pages_arrives_in_order(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """What was sent while the listener was away is read in pages, large messages among them."""
    sender, receiver = layers(), layers(port=proxy.port, capacity=100_000)
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": -1})
    assert (await soon(receiver.receive(channel)))["n"] == -1
    proxy.hold_answers()
    count = 3000
    for number in range(count):
        padding = b"x" * (9000 if number % 500 == 7 else 1)
        await sender.send(channel, {"n": number, "padding": padding})
    proxy.reset()
    proxy.release_answers()
    received = [(await soon(receiver.receive(channel)))["n"] for _ in range(count)]
    assert received == list(range(count))


async def test_the_buffer_of_a_hand_over_is_bounded(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications that do not fit while the backlog is read are read from their rows."""
    sender, receiver = layers(), layers(capacity=1000)
    channel = await receiver.new_channel()
    await settled(receiver)
    await sender.new_channel()
    await settled(sender)
    read = Listener._read_backlog
    reads = 0

    async def read_and_be_overrun(self: Listener, wire: Wire) -> None:
        nonlocal reads
        reads += 1
        await read(self, wire)
        if reads == 1:
            with monkeypatch.context() as small:
                small.setattr(listener, "_BUFFER_BYTES", 1000)
                for number in range(50):
                    await sender.send(channel, {"n": number})
                await wire.call(statements.PROBE)  # answered after all notifications have come

    monkeypatch.setattr(Listener, "_read_backlog", read_and_be_overrun)
    supervisor_of(receiver)._listening.replace = True
    supervisor_of(receiver).wake()
    assert await drain(receiver, channel, 50) == list(range(50))
    assert reads == 2


# 4. Senders that are no node


async def test_a_sender_that_is_no_node_is_heard_once_across_a_hand_over(
    layers: Layers, installed: FreshDatabase
) -> None:
    """A message sent by SQL is neither lost nor repeated when the backlog is read again."""
    receiver = layers()
    channel = await receiver.new_channel()
    send = "SELECT channels_pg_secrets_send_v1(%s, jsonb_build_object('n', %s::int))"
    for number in range(5):
        installed.execute(send, (channel, number))
        await move_connections(receiver)
    assert sorted(await drain(receiver, channel, 5)) == [0, 1, 2, 3, 4]


# 5. Lost tables


async def test_tables_emptied_by_a_crash_lose_nothing(
    layers: Layers, installed: FreshDatabase
) -> None:
    """After immediate shutdown and recovery, nodes and members are back and senders resend."""
    sender, receiver = layers(), layers(capacity=100_000)
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await sender.group_send("group", {"n": 0})
    assert (await soon(receiver.receive(channel)))["n"] == 0
    received: list[int] = []
    sent = 0

    async def receive() -> None:
        while True:
            received.append((await receiver.receive(channel))["n"])

    receiving = asyncio.create_task(receive())
    for _ in range(50):
        sent += 1
        await sender.group_send("group", {"n": sent})
    incarnation = node_of(receiver).identity.incarnation
    await asyncio.to_thread(installed.server.restart, "immediate")
    for _ in range(50):
        sent += 1
        await soon(sender.group_send("group", {"n": sent}), 20)
    await until(lambda: len(received) >= sent)
    receiving.cancel()
    assert received == list(range(1, sent + 1))
    assert node_of(receiver).identity.incarnation != incarnation


async def at_rest(layers: Layers) -> tuple[PostgresChannelLayer, PostgresChannelLayer, str]:
    """Return a sender, a receiver, and a channel of the receiver that is in "group"."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await sender.new_channel()
    await settled(sender)
    await settled(receiver)
    return sender, receiver, channel


async def test_a_listener_that_is_lost_alone_waits_for_the_memberships(
    layers: Layers, installed: FreshDatabase
) -> None:
    """A pooler may keep the publisher's connection through a crash, which then goes unnoticed."""
    sender, receiver, channel = await at_rest(layers)
    empty_tables(installed)
    await soon(sender.group_send("group", {"n": 1}))
    await sender.send(channel, {"n": 2})
    old = supervisor_of(receiver).listener.wire
    assert old is not None
    old.abandon(WireLost("by the test"))
    assert await drain(receiver, channel, 2) == [1, 2]


@both_sizes
async def test_messages_that_vanished_with_the_tables_are_sent_again(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy, size: int
) -> None:
    """What a receiver had not read when the tables were emptied comes from its sender's memory."""
    sender, receiver = layers(), layers(port=proxy.port)
    channel = await receiver.new_channel()
    await sender.send(channel, {"n": 0})
    assert (await soon(receiver.receive(channel)))["n"] == 0
    proxy.hold_answers()
    for start in (1, 6):
        numbers = range(start, start + 5)
        sends = [sender.send(channel, {"n": n, "padding": b"x" * size}) for n in numbers]
        await asyncio.gather(*sends)
    empty_tables(installed)
    proxy.reset()
    proxy.release_answers()
    await soon(sender.send(channel, {"n": 11}))
    assert await drain(receiver, channel, 11) == list(range(1, 12))


async def test_what_is_sent_to_a_group_while_a_node_catches_up_comes_once(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its members are known again, so it is sent to them, and kept for those who are not."""
    sender, receiver, channel = await at_rest(layers)
    call, catching_up, sent = Wire.call, False, False

    async def meanwhile(wire: Wire, request: Any, *values: Any) -> Any:
        nonlocal catching_up, sent
        if (
            request is statements.CATCH_UP
            and values[1] == node_of(receiver).identity.node
            and not catching_up
        ):
            catching_up = True
            sends = [sender.group_send("group", {"n": number}) for number in range(1, 6)]
            await asyncio.gather(*sends)
            sent = True
        return await call(wire, request, *values)

    monkeypatch.setattr(Wire, "call", meanwhile)
    empty_tables(installed)
    await sender.group_send("group", {"n": 0})
    supervisor_of(receiver)._registration.again()
    await until(lambda: sent)
    await connected(receiver)
    await sender.group_send("group", {"n": 6})
    assert await drain(receiver, channel, 7) == list(range(7))


async def test_what_waits_for_those_who_are_late_keeps_its_order(
    layers: Layers, installed: FreshDatabase
) -> None:
    """Also what one batch holds for a channel and for a group that it is in."""
    sender, receiver, channel = await at_rest(layers)
    empty_tables(installed)
    await sender.group_send("nobody", {})
    await asyncio.gather(
        sender.send("work", {}),
        sender.send(channel, {"n": 1}),
        sender.group_send("group", {"n": 2}),
        sender.send(channel, {"n": 3}),
    )
    supervisor_of(receiver)._registration.again()
    assert await drain(receiver, channel, 3) == [1, 2, 3]


async def test_whoever_comes_back_waits_for_what_is_under_way_to_it(
    layers: Layers, installed: FreshDatabase
) -> None:
    """A batch that did not find its receiver, and ends when that is back, is not passed over."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await sender.new_channel()
    await settled(sender)
    await settled(receiver)
    with psycopg.connect(**installed.connection_params(), autocommit=True) as holder:
        lock = (f"{receiver.prefix}:work",)
        holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 7919))", lock)
        empty_tables(installed)
        await sender.group_send("nobody", {})
        # The first goes alone, the other two as one batch.
        sends = sender.send("other", {}), sender.send("work", {}), sender.send(channel, {"n": 1})
        sending = asyncio.gather(*sends)
        await until(lambda: waiting_for_locks(installed) == 1)
        listener = supervisor_of(receiver).listener
        old = listener.wire
        supervisor_of(receiver)._registration.again()
        await until(
            lambda: (
                waiting_for_locks(installed) == 2
                or (
                    listener.wire not in {old, None}
                    and listener.wire.on_notify == listener.notified
                )
            )
        )
    await soon(sending)
    await connected(receiver)
    await sender.send(channel, {"n": 2})
    assert await drain(receiver, channel, 2) == [1, 2]


INCARNATION = "(SELECT incarnation FROM channels_pg_secrets_state)"
FRAME = f"""
    SELECT channels_pg_secrets_publish_frame_v1(
        7, {INCARNATION}, 1, 1, 'item', 'heard', 'head ', 60, NULL)
"""
IN_COMPANY = f"""
    SELECT channels_pg_secrets_publish_v1('asgi', 7, {INCARNATION}, 1, false, 60, 60, 60,
        '{{1}}', '{{NULL}}', '{{NULL}}', '{{NULL}}', '{{item}}', '{{NULL}}')
"""


@pytest.mark.parametrize("publish", [FRAME, IN_COMPANY], ids=["alone", "in company"])
async def test_whoever_is_entered_just_then_is_notified(
    installed: FreshDatabase, publish: str
) -> None:
    """A message that finds no such process looks again, once nobody is catching up any more."""
    params = installed.connection_params()
    with (
        psycopg.connect(**params, autocommit=True) as receiver,
        psycopg.connect(**params, autocommit=True) as sender,
    ):
        receiver.execute("LISTEN heard")
        receiver.execute("SELECT pg_advisory_lock(7919, 2)")
        sending = asyncio.create_task(asyncio.to_thread(sender.execute, publish))
        await until(lambda: waiting_for_locks(installed) == 1)
        receiver.execute("SELECT channels_pg_secrets_register_v1('asgi', 1, 'heard', '', '', 1, 1)")
        receiver.execute("SELECT pg_advisory_unlock(7919, 2)")
        await sending
        assert [n.payload[-4:] for n in receiver.notifies(timeout=5, stop_after=1)] == ["item"]


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
async def test_whoever_catches_up_sees_what_it_waited_for(
    layers: Layers, installed: FreshDatabase, level: str
) -> None:
    """Whatever its login's default is."""
    installed.execute(
        f"ALTER DATABASE {installed.name} SET default_transaction_isolation = '{level}'"
    )
    receiver = layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await settled(receiver)
    params = installed.connection_params()
    with psycopg.connect(**params) as user:
        empty_tables(installed)
        user.execute(
            "SELECT channels_pg_secrets_group_send_v1('group', '{\"n\": 1}', %s)",
            (receiver.prefix,),
        )
        supervisor_of(receiver)._registration.again()
        await until(lambda: waiting_for_locks(installed) == 1)
    assert await drain(receiver, channel, 1) == [1]


async def test_a_registration_that_fails_for_whatever_reason_is_tried_again(
    layers: Layers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be published until it succeeds, so the next connection tries again."""
    layer = layers()
    channel = await layer.new_channel()
    await settled(layer)
    call, failed = Wire.call, False

    async def fail(wire: Wire, request: Any, *values: Any) -> Any:
        nonlocal failed
        if request is statements.REGISTER and not failed:
            failed = True
            raise ValueError("by the test")
        return await call(wire, request, *values)

    monkeypatch.setattr(Wire, "call", fail)
    supervisor_of(layer)._registration.again()
    await until(lambda: failed)
    await soon(layers().send(channel, {"n": 1}))
    await soon(layer.send("work", {"n": 2}))
    assert (await soon(layer.receive("work")))["n"] == 2
    assert "could not be entered again" in caplog.text


async def test_normal_channels_are_in_their_groups_after_a_crash(
    layers: Layers, installed: FreshDatabase
) -> None:
    """Whoever added them may be gone; and what others have taken out does not come back."""
    gone, stays, other = layers(), layers(), layers()
    await gone.group_add("group", "work")
    await stays.group_add("group", "left")
    await other.group_discard("group", "left")
    await gone.close()
    await asyncio.to_thread(installed.server.restart, "immediate")
    await soon(other.group_send("group", {"n": 1}), 20)
    assert (await soon(stays.receive("work")))["n"] == 1
    await settled(stays)
    installed.execute(
        "SELECT channels_pg_secrets_group_send_v1('group', '{\"n\": 2}', %s)", (other.prefix,)
    )
    assert (await soon(other.receive("work")))["n"] == 2
    await stays.send("left", {"n": 3})
    assert (await soon(other.receive("left")))["n"] == 3


async def test_what_is_sent_from_sql_after_a_crash_waits_for_those_who_are_late(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """Also when nobody at all is back yet: small and large, to a channel and to a group."""
    receiver = layers(port=proxy.port)
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    proxy.refuse()
    proxy.hold_answers()
    empty_tables(installed)
    prefix = receiver.prefix
    texts = ["nobody", "x" * 10_000, "direct"]
    group_send = "SELECT channels_pg_secrets_group_send_v1('group', %s::jsonb, %s)"
    for text in texts[:2]:
        installed.execute(group_send, (json.dumps({"n": text}), prefix))
    send = "SELECT channels_pg_secrets_send_v1(%s, %s::jsonb, %s)"
    installed.execute(send, (channel, json.dumps({"n": texts[2]}), prefix))
    other = layers()
    await other.new_channel()  # is back before the receiver
    installed.execute(group_send, (json.dumps({"n": "late"}), prefix))
    proxy.reset()
    proxy.release_answers()
    proxy.admit()
    assert set(await drain(receiver, channel, 4)) == {*texts, "late"}


async def test_a_users_long_transaction_keeps_nobody_from_coming_back(
    layers: Layers, installed: FreshDatabase
) -> None:
    """After a crash a transaction that has sent to a group may go on for as long as it likes."""
    receiver = layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    with psycopg.connect(**installed.connection_params()) as user:
        send = "SELECT channels_pg_secrets_group_send_v1('group', %s::jsonb, %s)"
        empty_tables(installed)
        user.execute(send, ('{"n": 1}', receiver.prefix))
        incarnation = node_of(receiver).identity.incarnation
        await until(lambda: node_of(receiver).identity.incarnation != incarnation, 15)
        await soon(layers().send(channel, {"n": 2}))
        assert (await soon(receiver.receive(channel)))["n"] == 2


# Large messages


async def test_large_messages_share_a_statement_and_no_frame(
    layers: Layers, installed: FreshDatabase
) -> None:
    """In one batch with small ones, to a channel, a group and a normal channel, each in order."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await sender.group_add("group", "work")
    await settled(sender)
    await settled(receiver)
    installed.execute("UPDATE channels_pg_secrets_state SET created = created - interval '1 hour'")
    texts = [letter * size for letter in "abcdefgh" for size in (1, 20_000)]
    with psycopg.connect(**installed.connection_params(), autocommit=True) as holder:
        lock = (f"{receiver.prefix}:work",)
        holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 7919))", lock)
        first = asyncio.create_task(sender.send("work", {"n": "first"}))
        await until(lambda: waiting_for_locks(installed) == 1)
        sends = [sender.send(channel, {"n": text}) for text in texts]
        sends += [sender.group_send("group", {"n": text}) for text in texts]
        sends += [sender.send("work", {"n": text}) for text in texts]
        sending = asyncio.gather(first, *sends)
        await until(lambda: len(list(node_of(sender).outbox.futures())) == 1 + len(sends))
    await soon(sending)
    assert await drain(receiver, channel, 32) == texts + texts
    assert await drain(receiver, "work", 33) == ["first", *texts, *texts]
    rows = installed.execute(
        "SELECT body, xmin::text FROM channels_pg_secrets_message_0 WHERE node > 0"
        " AND body ~ '^[cCgG]' ORDER BY seq"
    )
    assert len({transaction for _, transaction in rows}) == 1
    frames = [body.split(",") for body, _ in rows]
    assert [len(items) for items in frames if items[0][0] in "CG"] == [1] * 16
    assert not any(item[0] in "CG" for items in frames for item in items[1:])


@pytest.mark.parametrize("ending", ["late", "unheard", "undone"])
async def test_a_batch_of_large_messages_in_doubt_arrives_once(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy, ending: str
) -> None:
    """Its first try commits after its retry has come, or unheard by its sender, or not at all."""
    sender, receiver = layers(port=proxy.port), layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await sender.group_add("group", "work")
    await settled(sender)
    texts = [letter * size for letter in "abcd" for size in (1, 20_000)]
    with psycopg.connect(**installed.connection_params(), autocommit=True) as holder:
        lock = (f"{receiver.prefix}:work",)
        holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 7919))", lock)
        sends = [sender.send(channel, {"n": "first"})]
        sends += [sender.send(channel, {"n": text}) for text in texts]
        sends += [sender.group_send("group", {"n": text}) for text in texts]
        sends += [sender.send("work", {"n": text}) for text in texts]
        sending = asyncio.gather(*sends)
        await until(lambda: waiting_for_locks(installed) == 1)
        if ending == "late":
            proxy.reset()
            await until(lambda: waiting_for_locks(installed) == 2)
        elif ending == "unheard":
            proxy.hold_answers()
        else:
            installed.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE locktype = 'advisory' AND NOT granted"
            )
    if ending == "unheard":
        work = "SELECT count(*) FROM channels_pg_secrets_queue"
        await until(lambda: installed.execute(work) == [(16,)])
        proxy.reset()
        proxy.release_answers()
    await soon(sending)
    assert await drain(receiver, channel, 17) == ["first", *texts, *texts]
    assert await drain(receiver, "work", 16) == texts + texts


async def test_bodies_are_read_as_fast_as_they_come(layers: Layers, proxy: FaultProxy) -> None:
    """Many by one statement: the network's latency is not paid for each."""
    sender, receiver = layers(), layers(port=proxy.port)
    channel = await receiver.new_channel()
    await settled(receiver)
    proxy.latency = 0.05
    began = time.monotonic()
    sends = (sender.send(channel, {"n": n, "padding": b"x" * 10_000}) for n in range(80))
    await asyncio.gather(*sends)
    received = [(await soon(receiver.receive(channel)))["n"] for _ in range(80)]
    assert received == list(range(80))
    assert time.monotonic() - began < 80 * 2 * proxy.latency / 2


async def test_bodies_that_were_not_read_are_read_over_the_next_connection(
    layers: Layers, proxy: FaultProxy
) -> None:
    """Each once and in order, though the connection ends while several are waited for."""
    sender, receiver = layers(), layers(port=proxy.port)
    channel = await receiver.new_channel()
    await settled(receiver)
    held = supervisor_of(receiver).listener._held
    for start in range(0, 30, 10):
        proxy.latency = 0.1
        numbers = range(start, start + 10)
        sends = (sender.send(channel, {"n": n, "padding": b"x" * 10_000}) for n in numbers)
        await asyncio.gather(*sends)
        await until(lambda: held)
        proxy.latency = 0.0
        proxy.reset()
        assert await drain(receiver, channel, 10) == list(numbers)


async def test_a_body_that_is_gone_holds_up_no_other(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """It is dropped and counted, and those around it arrive."""
    sender, receiver = layers(), layers(port=proxy.port)
    channel = await receiver.new_channel()
    await settled(receiver)
    proxy.hold_answers()
    sends = (sender.send(channel, {"n": n, "padding": b"x" * 10_000}) for n in range(5))
    await asyncio.gather(*sends)
    bodies = "SELECT seq FROM channels_pg_secrets_message_0 WHERE node = 0 ORDER BY seq"
    gone = [seq for (seq,) in installed.execute(bodies)][1:5:2]
    delete = "DELETE FROM channels_pg_secrets_message_0 WHERE node = 0 AND seq = ANY (%s)"
    installed.execute(delete, (gone,))
    proxy.release_answers()
    assert await drain(receiver, channel, 3) == [0, 2, 4]
    assert receiver.stats()["dropped_expired"] == 2


def test_bodies_are_read_within_a_bound(installed: FreshDatabase) -> None:
    """The first whatever it has, others as long as they fit, in the order that was asked for."""
    fill = (
        "INSERT INTO channels_pg_secrets_message_1 (node, sender, seq, expires, blob)"
        " SELECT 0, 7, n, now(), convert_to(repeat('x', n * 10000), 'UTF8')"
        " FROM generate_series(1, 9) n"
    )
    installed.execute(fill)

    def read(*numbers: int) -> list[tuple[int, int | None]]:
        query = "SELECT number, length(blob) FROM channels_pg_secrets_blobs_v1(7, %s, 50000)"
        return installed.execute(query, (list(numbers),))

    assert read(9, 1) == [(9, 90_000)]
    assert read(2, 10, 1, 11, 3) == [(2, 20_000), (10, None), (1, 10_000), (11, None)]
    assert read(1, 4, 1) == [(1, 10_000), (4, 40_000)]
    assert read(12) == [(12, None)]


# 6. Memberships


async def test_leaving_as_the_last_and_joining_as_the_first_leave_one_row(
    layers: Layers, installed: FreshDatabase
) -> None:
    """A discard and an add that are written together leave the group as it should now be."""
    sender, receiver = layers(), layers()
    first, second = await receiver.new_channel(), await receiver.new_channel()
    await receiver.group_add("group", first)
    for number in range(30):
        await asyncio.gather(
            receiver.group_discard("group", first), receiver.group_add("group", second)
        )
        await sender.group_send("group", {"n": number})
        assert (await soon(receiver.receive(second)))["n"] == number
        first, second = second, first
    rows = installed.execute("SELECT count(*) FROM channels_pg_secrets_member")
    assert rows == [(1,)]


async def test_whoever_joins_waits_until_others_can_see_it(layers: Layers) -> None:
    """Of many channels that join at once, each is reachable when its own join has returned."""
    sender, receiver = layers(), layers()
    channels = [await receiver.new_channel() for _ in range(50)]

    async def join_and_hear(number: int, channel: str) -> Any:
        await receiver.group_add(f"group{number % 5}", channel)
        await sender.group_send(f"group{number % 5}", {"n": number})
        while True:
            message = await soon(receiver.receive(channel))
            if message["n"] == number:
                return number

    heard = await asyncio.gather(*(join_and_hear(n, c) for n, c in enumerate(channels)))
    assert heard == list(range(50))


async def test_replay_honours_the_moment_of_joining(layers: Layers, proxy: FaultProxy) -> None:
    """A group message sent before a channel joined is not replayed to it afterwards."""
    sender, receiver = layers(), layers(port=proxy.port)
    early, late = await receiver.new_channel(), await receiver.new_channel()
    await receiver.group_add("group", early)
    await connected(receiver)
    proxy.hold_answers()
    await sender.group_send("group", {"n": 1})
    await asyncio.sleep(0.05)  # ages are measured: the join must be later by more than a round trip
    joining = asyncio.create_task(receiver.group_add("group", late))
    await asyncio.sleep(0.05)
    await sender.group_send("group", {"n": 2})
    proxy.reset()
    proxy.release_answers()
    await soon(joining)
    assert await drain(receiver, early, 2) == [1, 2]
    assert await drain(receiver, late, 1) == [2]


async def test_a_join_that_its_node_has_not_heard_of_survives_the_last_leave(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy
) -> None:
    """The owner's "nobody left" does not delete a row that another process has just joined."""
    owner, other = layers(port=proxy.port), layers()
    first, second = await owner.new_channel(), await owner.new_channel()
    await owner.group_add("group", first)
    await connected(owner)
    listening = supervisor_of(owner)._listening
    wire = listening.wire
    assert wire is not None
    heard: list[bytes] = []
    notified, wire.on_notify = wire.on_notify, heard.append
    await other.group_add("group", second)
    await owner.group_discard("group", first)
    await until(lambda: not node_of(owner).memberships.dirty)
    for payload in heard:
        notified(payload)
    wire.on_notify = notified
    await until(lambda: not node_of(owner).memberships.dirty)
    await other.group_send("group", {"n": 1})
    assert (await soon(owner.receive(second)))["n"] == 1
    await other.group_discard("group", second)
    rows = "SELECT count(*) FROM channels_pg_secrets_member"
    await until(lambda: installed.execute(rows) == [(0,)])


# 7. Heartbeat


async def test_a_node_that_was_given_up_registers_again(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat that finds no row enters the node again, with its memberships."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.1)
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    gone = "SELECT channels_pg_secrets_deregister_v1(%s)"
    installed.execute(gone, (node_of(receiver).identity.node,))
    members = "SELECT count(*) FROM channels_pg_secrets_member"
    await until(lambda: installed.execute(members) == [(1,)])
    await sender.group_send("group", {"n": 1})
    assert (await soon(receiver.receive(channel)))["n"] == 1


async def register_unanswered(
    layer: PostgresChannelLayer,
    installed: FreshDatabase,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Have a layer register again; its answer is lost, and it does so on another connection."""
    done = "SELECT FROM channels_pg_secrets_node WHERE id = %s AND seen > %s"
    ((begun,),) = installed.execute("SELECT clock_timestamp()")
    before = supervisor_of(layer).publisher.wire
    call, lost = Wire.call, False

    async def losing(wire: Wire, request: Any, *values: Any) -> Any:
        nonlocal lost
        if request is not statements.REGISTER or lost:
            return await call(wire, request, *values)
        lost = True
        proxy.hold_answers()
        answer = asyncio.create_task(call(wire, request, *values))
        await until(lambda: installed.execute(done, (node_of(layer).identity.node, begun)))
        proxy.reset()
        proxy.release_answers()
        return await answer

    monkeypatch.setattr(Wire, "call", losing)
    supervisor_of(layer)._registration.again()
    await until(lambda: supervisor_of(layer).publisher.wire is not before)
    await settled(layer)
    assert lost


async def test_a_registration_whose_reply_was_lost_is_made_good(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that finds the entry it made without knowing writes its memberships again."""
    sender, receiver = layers(), layers(port=proxy.port)
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await settled(receiver)
    installed.execute(
        "SELECT channels_pg_secrets_deregister_v1(%s)", (node_of(receiver).identity.node,)
    )
    await register_unanswered(receiver, installed, proxy, monkeypatch)
    await sender.group_send("group", {"n": 1})
    assert await drain(receiver, channel, 1) == [1]


async def test_a_lost_reply_to_a_registration_that_changed_nothing_leaves_no_row(
    layers: Layers, installed: FreshDatabase, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose entry was there all the time still knows what others have written into it."""
    other, owner = layers(), layers(port=proxy.port)
    channel = await owner.new_channel()
    await other.group_add("group", channel)
    await settled(owner)
    await register_unanswered(owner, installed, proxy, monkeypatch)
    await owner.group_discard("group", channel)
    rows = "SELECT count(*) FROM channels_pg_secrets_member"
    await until(lambda: installed.execute(rows) == [(0,)])


async def send_in_company(sender: PostgresChannelLayer, channel: str, number: int) -> None:
    """Send a message as one of several, for which the database looks up where it goes."""
    company = (sender.send("work", {}), sender.group_send("nobody", {}))
    await asyncio.gather(company[0], sender.send(channel, {"n": number}), company[1])


async def test_what_came_while_the_tables_had_lost_a_node_is_heard_first(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who knows the node overtakes it, nor who is heard while it registers."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    for _ in range(2):
        await sender.send(channel, {"n": 0})
        await settled(sender)
    await settled(receiver)
    installed.execute(
        "SELECT channels_pg_secrets_deregister_v1(%s)", (node_of(receiver).identity.node,)
    )
    await send_in_company(sender, channel, 1)
    await sender.send(channel, {"n": 2})
    call = Wire.call

    async def late(wire: Wire, request: Any, *values: Any) -> Any:
        rows = await call(wire, request, *values)
        if request is statements.REGISTER:
            await sender.send(channel, {"n": 3})
            await asyncio.sleep(0.1)
        return rows

    monkeypatch.setattr(Wire, "call", late)
    supervisor_of(receiver)._registration.again()
    assert await drain(receiver, channel, 5) == [0, 0, 1, 2, 3]


async def test_a_hand_over_during_a_registration_afresh_reads_again(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in rows that were not there yet when it read them is not lost."""
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await settled(receiver)
    registration = supervisor_of(receiver)._registration
    call, read = Wire.call, False

    async def lose(wire: Wire, request: Any, *values: Any) -> Any:
        nonlocal read
        rows = await call(wire, request, *values)
        if request is statements.BACKLOG and values[-1] and not values[-2] and not read:
            read = True
            node = node_of(receiver).identity.node
            installed.execute("SELECT channels_pg_secrets_deregister_v1(%s)", (node,))
            await send_in_company(sender, channel, 1)
            registration.again()
            await until(lambda: not registration.under_way)
        return rows

    monkeypatch.setattr(Wire, "call", lose)
    old = supervisor_of(receiver).listener.wire
    assert old is not None
    old.abandon(WireLost("by the test"))
    await until(lambda: read and supervisor_of(receiver).listener.wire is not old)
    await connected(receiver)
    await sender.send(channel, {"n": 2})
    assert await drain(receiver, channel, 2) == [1, 2]


async def test_a_dead_nodes_rows_are_swept_away(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has been silent for too long loses its entry and its memberships."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.1)
    alive, dead = layers(), layers()
    await alive.new_channel()
    channel = await dead.new_channel()
    await dead.group_add("group", channel)
    node_of(dead).homes.stop()
    # Sweeps have come without a gap for long enough.
    installed.execute("UPDATE channels_pg_secrets_state SET awake = awake - interval '1 hour'")
    silent = "UPDATE channels_pg_secrets_node SET seen = seen - interval '1 hour' WHERE id = %s"
    nodes = "SELECT count(*) FROM channels_pg_secrets_node"

    def only_one() -> bool:
        # Each time, since a last heartbeat may have been under way.
        installed.execute(silent, (node_of(dead).identity.node,))
        return installed.execute(nodes) == [(1,)]

    await until(only_one)
    assert installed.execute("SELECT count(*) FROM channels_pg_secrets_member") == [(0,)]


async def test_the_slices_are_emptied_in_turn(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is older than the expiry is truncated, also when nobody sends any more."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.05)
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    for number in range(90):
        await sender.send(channel, {"n": number})
    size = "SELECT sum(pg_relation_size(c)) FROM unnest(%s::regclass[]) AS c"
    slices = [f"channels_pg_secrets_message_{number}" for number in range(3)]
    assert installed.execute(size, (slices,))[0][0] > 0
    installed.execute("UPDATE channels_pg_secrets_node SET span = 0.1")
    await until(lambda: installed.execute(size, (slices,))[0][0] == 0)
    assert await drain(receiver, channel, 90) == list(range(90))


async def test_a_stopped_process_does_not_hold_its_backend_for_ever(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server itself ends a listening session whose process reads no more."""
    monkeypatch.setattr(postgres, "LISTENER_TIMEOUT", 2.0)
    listening, sender = layers(), layers(capacity=100_000)
    channel = await listening.new_channel()
    await connected(listening)
    await sender.new_channel()
    await connected(sender)
    wire = supervisor_of(listening).listener.wire
    assert wire is not None
    session = "SELECT FROM pg_stat_activity WHERE pid = %s"
    pid = wire.opened.connection.info.backend_pid
    wire._loop.remove_reader(wire._fd)  # as if the process were stopped
    monkeypatch.setattr(wire, "overdue", lambda _seconds: False)

    async def flood() -> None:
        while True:
            await asyncio.gather(*(sender.send(channel, {"d": b"x" * 5000}) for _ in range(200)))

    flooding = asyncio.create_task(flood())
    try:
        await until(lambda: not installed.execute(session, (pid,)), 30)
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


@pytest.mark.parametrize("channel", ["", "x" * 64])
async def test_a_node_that_cannot_be_notified_is_not_let_in(
    installed: FreshDatabase, channel: str
) -> None:
    """NOTIFY takes no such name, and whoever sent to that node's groups would be told so."""
    register = "SELECT channels_pg_secrets_register_v1('asgi', 1, %s, '', '', 30, 1)"
    with pytest.raises(psycopg.errors.CheckViolation):
        installed.execute(register, (channel,))


# 8. flush


async def test_flush_waits_for_live_nodes_only_so_long(
    layers: Layers, installed: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not answer holds flush up until its time-out, and no longer."""
    from channels_pg_secrets.layer import channel_layer

    monkeypatch.setattr(channel_layer, "FLUSH_TIMEOUT", 0.5)
    layer = layers()
    await layer.new_channel()
    installed.execute(
        "INSERT INTO channels_pg_secrets_node"
        " (id, prefix, channel, inner_pad, outer_pad, span, entry)"
        " VALUES (1, 'asgi', 'nobody', '', '', 30, 1)"
    )
    begun = time.monotonic()
    await layer.flush()
    assert 0.5 <= time.monotonic() - begun < 3


async def test_after_flush_no_process_has_messages_or_members(layers: Layers) -> None:
    """When flush returns, the mailboxes and memberships of all nodes are empty."""
    nodes = [layers() for _ in range(3)]
    channels = [await layer.new_channel() for layer in nodes]
    for layer, channel in zip(nodes, channels, strict=True):
        await layer.group_add("group", channel)
        await nodes[0].send(channel, {"n": 0})
        await nodes[0].send("work", {"n": 0})
    await nodes[0].flush()
    await nodes[1].group_send("group", {"n": 1})
    for layer, channel in zip(nodes, channels, strict=True):
        assert await drain(layer, channel) == []
    assert await drain(nodes[2], "work") == []


# Normal channels


async def test_a_claim_whose_reply_was_lost_is_not_lost(
    layers: Layers, proxy: FaultProxy, installed: FreshDatabase
) -> None:
    """After a reconnect a node finds what it has claimed without knowing, and gives it back."""
    sender, worker = layers(), layers(port=proxy.port)
    receiving = asyncio.create_task(worker.receive("work"))
    await connected(worker)
    await sender.send("work", {"n": 0})
    assert (await soon(receiving))["n"] == 0
    await until(lambda: not installed.execute("SELECT FROM channels_pg_secrets_queue"))
    await settled(worker)
    proxy.hold_answers()
    await sender.send("work", {"n": 1})
    receiving = asyncio.create_task(worker.receive("work"))
    claimed = "SELECT FROM channels_pg_secrets_queue WHERE claimed_by IS NOT NULL"
    await until(lambda: installed.execute(claimed))
    proxy.reset()
    proxy.release_answers()
    assert (await soon(receiving))["n"] == 1


async def test_a_normal_channel_at_capacity_stays_exact_across_a_lost_reply(
    layers: Layers, proxy: FaultProxy, installed: FreshDatabase
) -> None:
    """The refusals of a batch whose answer was lost are the same when it is asked again."""
    sender, worker = layers(port=proxy.port, capacity=3), layers()
    await sender.send("other", {"n": 0})
    await settled(sender)
    proxy.hold_answers()
    sends = [asyncio.create_task(sender.send("work", {"n": number})) for number in range(5)]
    queued = "SELECT FROM channels_pg_secrets_queue WHERE channel = 'work'"
    await until(lambda: installed.execute(queued))
    proxy.reset()
    proxy.release_answers()
    outcomes = await soon(asyncio.gather(*sends, return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [ChannelFull] * 2
    assert await drain(worker, "work", 3) == [0, 1, 2]


def waiting_for_locks(database: FreshDatabase) -> int:
    """How many backends wait for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return int(database.execute(query)[0][0])


def empty_tables(database: FreshDatabase) -> None:
    """Do to the unlogged tables what a crash does."""
    tables = ("state", "node", "member", "reader", "message_0", "message_1", "message_2")
    database.execute("TRUNCATE " + ", ".join(f"channels_pg_secrets_{table}" for table in tables))
