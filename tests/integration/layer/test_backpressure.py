"""A full channel of another process refuses what is sent to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from channels.exceptions import ChannelFull

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import outbox, statements, supervisor
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.layer.wire import Wire
from pg_secrets.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Peer

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]

#: Seconds within which a sender must learn that a channel is full.
BOUND = 2.0
MARKED = """
    SELECT coalesce(full_channels, '{}') FROM channels_pg_secrets_node
    WHERE to_hex(id) = ltrim(%s, '0')
"""
EMPTY = (
    "TRUNCATE channels_pg_secrets_state, channels_pg_secrets_node, channels_pg_secrets_member,"
    " channels_pg_secrets_reader, channels_pg_secrets_message_0, channels_pg_secrets_message_1,"
    " channels_pg_secrets_message_2, channels_pg_secrets_epoch"
)


def marked(layers: Layers, layer: PostgresChannelLayer) -> list[str]:
    """The channels that stand as full in a layer's row."""
    rows = layers.database.execute(MARKED, (layer.stats()["node"],))
    return list(rows[0][0]) if rows else ["no row"]


async def fill(layer: Any, channel: str) -> int:
    """Send until the channel refuses, and return how many it took."""
    until = time.monotonic() + BOUND
    number = 0
    while True:
        try:
            await layer.send(channel, {"type": "test", "n": number})
        except ChannelFull:
            return number
        number += 1
        assert time.monotonic() < until, f"{number} messages were sent in vain"
        await asyncio.sleep(0.002)


async def refused(layer: Any, channel: str) -> bool:
    """Send one message, and say whether it was refused."""
    try:
        await layer.send(channel, {"type": "test", "n": "try"})
    except ChannelFull:
        return True
    return False


async def accepted(layer: Any, channel: str) -> bool:
    return not await refused(layer, channel)


async def test_a_full_channel_refuses_and_a_drained_one_takes_again(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """ChannelFull comes within two seconds of filling up, and sends pass once half is read."""
    here, there = layers(), layers(capacity=10)
    channel = await there.new_channel()
    await fill(here, channel)
    assert marked(layers, there) == [channel]
    assert [(await soon(there, channel))["n"] for _ in range(5)] == list(range(5))
    await eventually(lambda: accepted(here, channel), BOUND)
    assert marked(layers, there) == []
    assert [(await soon(there, channel))["n"] for _ in range(6)] == [*range(5, 10), "try"]


async def test_nothing_full_writes_nothing(layers: Layers, soon: Soon) -> None:
    """Messages that are read as they come leave no statement about full channels."""
    here, there = layers(), layers(capacity=1)
    channel = await there.new_channel()
    for number in range(20):
        receiving = asyncio.create_task(there.receive(channel))
        await asyncio.sleep(0)
        await here.send(channel, {"type": "test", "n": number})
        assert (await asyncio.wait_for(receiving, 10))["n"] == number
    query = "SELECT full_version FROM channels_pg_secrets_node WHERE to_hex(id) = ltrim(%s, '0')"
    assert layers.database.execute(query, (there.stats()["node"],)) == [(0,)]


async def test_one_full_channel_holds_up_no_other(layers: Layers, soon: Soon) -> None:
    """In one batch only what is for the full channel fails; the rest arrives in order."""
    here, there, elsewhere = layers(), layers(capacity=10), layers()
    full, free = await there.new_channel(), await there.new_channel()
    third = await elsewhere.new_channel()
    await there.group_add("group", free)
    await there.group_add("group", full)
    await fill(here, full)
    large = b"x" * 20_000
    outcomes = await asyncio.gather(
        here.send(free, {"type": "test", "n": 1}),
        here.send(full, {"type": "test", "n": 2}),
        here.send(third, {"type": "test", "n": 3}),
        here.group_send("group", {"type": "test", "n": 4}),
        here.group_add("late", full),
        here.send(full, {"type": "test", "n": 5, "large": large}),
        here.send("normal", {"type": "test", "n": 6}),
        here.send(free, {"type": "test", "n": 7, "large": large}),
        here.send(full, {"type": "test", "n": 8}),
        here.send(free, {"type": "test", "n": 9}),
        return_exceptions=True,
    )
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [1, 5, 8]
    assert all(isinstance(outcomes[n], ChannelFull) for n in (1, 5, 8))
    assert [(await soon(there, free))["n"] for _ in range(4)] == [1, 4, 7, 9]
    assert (await soon(elsewhere, third))["n"] == 3
    assert (await soon(here, "normal"))["n"] == 6


async def test_channels_that_share_an_element_are_told_apart(layers: Layers, soon: Soon) -> None:
    """Plain sends joined into one frame are refused one by one."""
    here, there = layers(), layers(capacity=10)
    full, free = await there.new_channel(), await there.new_channel()
    await fill(here, full)
    sends = [
        here.send(full if number % 3 == 0 else free, {"type": "test", "n": number})
        for number in range(9)
    ]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [0, 3, 6]
    assert [(await soon(there, free))["n"] for _ in range(6)] == [1, 2, 4, 5, 7, 8]


async def test_messages_that_nobody_reads_refuse_until_they_expire(
    layers: Layers, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When what fills a channel has expired, a sweep lets senders through."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.5)
    here, there = layers(), layers(capacity=10, expiry=2)
    channel = await there.new_channel()
    await fill(here, channel)
    await eventually(lambda: not marked(layers, there), timeout=15)
    assert await accepted(here, channel)


async def test_flush_lets_senders_through(layers: Layers, eventually: Eventually) -> None:
    """After a flush no channel is full."""
    here, there = layers(), layers(capacity=10)
    channel = await there.new_channel()
    await fill(here, channel)
    await here.flush()
    await eventually(lambda: accepted(here, channel), BOUND)


async def test_a_full_channel_stays_so_after_a_reconnect(
    layers: Layers, soon: Soon, eventually: Eventually, proxy: FaultProxy
) -> None:
    """Broken connections change nothing, and what drains meanwhile is told afterwards."""
    here = layers()
    engine = PostgresEngine({**layers.settings(), "PORT": proxy.port})
    there = engine.channel_layer(prefix=layers.prefix, capacity=10)
    assert isinstance(there, PostgresChannelLayer)
    layers.made.append(there)
    channel = await there.new_channel()
    await fill(here, channel)
    proxy.reset()
    assert await refused(here, channel)
    await eventually(lambda: len(there.stats()["connected"]) == 2)
    assert await refused(here, channel)
    proxy.hold_answers()
    for _ in range(10):
        await soon(there, channel)
    proxy.reset()
    proxy.release_answers()
    await eventually(lambda: accepted(here, channel))
    await eventually(lambda: there.stats()["connects"] >= 6)
    assert marked(layers, there) == []


async def test_a_registration_afresh_marks_again(
    own_layers: Layers, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emptied tables, and a node that was given up, forget nothing for long."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.5)
    here, there = own_layers(), own_layers(capacity=10)
    channel = await there.new_channel()
    await fill(here, channel)
    own_layers.database.execute(EMPTY)
    await eventually(lambda: marked(own_layers, there) == [channel], timeout=20)
    # The first may be a retry, which is not refused: its sender had to register again as well.
    await eventually(lambda: refused(here, channel))
    own_layers.database.execute(
        "DELETE FROM channels_pg_secrets_node WHERE to_hex(id) = ltrim(%s, '0')",
        (there.stats()["node"],),
    )
    await eventually(lambda: marked(own_layers, there) == [channel], timeout=20)


async def test_a_ghost_marks_nothing(layers: Layers) -> None:
    """A statement that is carried out after its successor changes nothing."""
    there = layers()
    await there.new_channel()
    call = (
        "SELECT channels_pg_secrets_full_v1(%s, incarnation, %s, %s) FROM channels_pg_secrets_state"
    )
    node = int(there.stats()["node"], 16)
    execute = layers.database.execute
    assert execute(call, (node, 2, [])) == [(0,)]
    assert execute(call, (node, 1, ["a"])) == [(1,)]
    assert marked(layers, there) == []
    assert execute(call, (node + 1, 3, ["a"])) == [(1,)]


async def test_a_retry_is_not_refused(layers: Layers, soon: Soon) -> None:
    """What may be committed already is not said to be refused: it ends as its first try did."""
    here, there = layers(), layers(capacity=10)
    channel = await there.new_channel()
    await fill(here, channel)
    node = here._here()
    batches = node.outbox.next_batch

    def doubtful() -> outbox.Batch | None:
        batch = batches()
        if batch is not None:
            batch.retry = True
        return batch

    node.outbox.next_batch = doubtful  # type: ignore[method-assign]
    await here.send(channel, {"type": "test", "n": "retried"})
    node.outbox.next_batch = batches  # type: ignore[method-assign]
    assert await refused(here, channel)
    assert [(await soon(there, channel))["n"] for _ in range(10)] == list(range(10))


async def test_a_refusal_whose_reply_is_lost_fails_no_other_message(
    layers: Layers, soon: Soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the connection breaks on a refusal, the rest of the batch still arrives once."""
    here, there = layers(), layers(capacity=10)
    full, free = await there.new_channel(), await there.new_channel()
    await fill(here, full)
    submit = Wire.submit
    cut: list[bool] = []

    def submit_and_break(self: Wire, request: Any, values: Any, reply: Any) -> None:
        publishing = request in (statements.PUBLISH, statements.PUBLISH_FRAME)
        if publishing and not cut:
            cut.append(True)
            submit(self, request, values, reply)
            self.cut()
        else:
            submit(self, request, values, reply)

    monkeypatch.setattr(Wire, "submit", submit_and_break)
    outcomes = await asyncio.gather(
        here.send(free, {"type": "test", "n": 1}),
        here.send(full, {"type": "test", "n": 2}),
        here.send(free, {"type": "test", "n": 3}),
        return_exceptions=True,
    )
    assert cut
    assert outcomes[0] is outcomes[2] is None
    assert outcomes[1] is None or isinstance(outcomes[1], ChannelFull)
    assert [(await soon(there, free))["n"] for _ in range(2)] == [1, 3]


async def test_a_slow_reader_loses_nothing_that_was_accepted_late(
    layers: Layers, eventually: Eventually
) -> None:
    """A sender that waits when it is refused gets everything across but what filled the channel."""
    here, there = layers(), layers(capacity=20)
    channel = await there.new_channel()
    accepted_numbers: list[int] = []
    received: list[int] = []

    async def send() -> None:
        for number in range(200):
            while True:
                try:
                    await here.send(channel, {"type": "test", "n": number})
                except ChannelFull:
                    await asyncio.sleep(0.01)
                else:
                    accepted_numbers.append(number)
                    break
            # Slower than the news of a channel that fills up.
            await asyncio.sleep(0.005)

    async def receive() -> None:
        while True:
            received.append((await there.receive(channel))["n"])
            await asyncio.sleep(0.01)

    sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
    await asyncio.wait_for(sending, 30)
    await eventually(lambda: received and received[-1] == 199)
    receiving.cancel()
    assert accepted_numbers == list(range(200))
    assert received == sorted(set(received))
    assert len(received) >= 190


async def test_a_full_channel_of_another_process_refuses(
    layers: Layers, peers: Callable[..., Peer], soon: Soon, eventually: Eventually
) -> None:
    """The same between two real processes, both ways."""
    here, peer = layers(capacity=10), peers()
    channel = await here.new_channel()
    for number in range(10):
        await peer("send", channel, number)

    async def peer_refused() -> bool:
        try:
            await peer("send", channel, "more")
        except AssertionError as error:
            return "ChannelFull" in str(error)
        return False

    began = time.monotonic()
    await eventually(peer_refused, BOUND)
    assert time.monotonic() - began < BOUND
    for _ in range(10):
        await soon(here, channel)

    async def peer_accepted() -> bool:
        return not await peer_refused()

    await eventually(peer_accepted, BOUND)


async def test_filling_and_draining_under_faults_leaves_no_mark(
    layers: Layers, eventually: Eventually
) -> None:
    """Channels that fill and drain while connections are cut end unmarked, in order, none twice."""
    there = layers(capacity=4)
    senders = [layers() for _ in range(3)]
    channels = [await there.new_channel() for _ in range(4)]
    received: dict[str, list[Any]] = {channel: [] for channel in channels}
    refusals = 0

    async def send(sender: int) -> None:
        nonlocal refusals
        for number in range(60):
            for channel in channels:
                try:
                    await senders[sender].send(channel, {"type": "test", "n": [sender, number]})
                except ChannelFull:
                    refusals += 1
            await asyncio.sleep(0.01)

    async def receive(channel: str) -> None:
        while True:
            received[channel].append((await there.receive(channel))["n"])
            await asyncio.sleep(0.01)

    receiving = [asyncio.create_task(receive(channel)) for channel in channels]
    sending = asyncio.gather(*(send(sender) for sender in range(3)))
    for _ in range(5):
        await asyncio.sleep(0.2)
        layers.database.terminate(layers.login.user)
    await asyncio.wait_for(sending, 30)
    await eventually(lambda: there.stats()["received_bytes_waiting"] == 0)
    await eventually(lambda: marked(layers, there) == [])
    for channel in channels:
        await eventually(lambda channel=channel: accepted(senders[0], channel), BOUND)
        for sender in range(3):
            numbers = [n for by, n in (p for p in received[channel] if p != "try") if by == sender]
            assert numbers == sorted(set(numbers))
    for task in receiving:
        task.cancel()
    assert refusals > 0
    assert marked(layers, there) == []


async def test_a_statement_that_fails_once_leaves_no_channel_full(
    own_layers: Layers, soon: Soon, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server would not write when a channel was drained is written with a later sweep."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.3)
    here, there = own_layers(), own_layers(capacity=10)
    channel = await there.new_channel()
    await fill(here, channel)
    database = own_layers.database
    database.execute(
        "CREATE SEQUENCE tries; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS $$ BEGIN PERFORM nextval('public.tries');"
        " RAISE EXCEPTION 'a disk that fails' USING ERRCODE = 'io_error'; END $$"
    )
    database.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE OF full_channels ON channels_pg_secrets_node"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    for _ in range(10):
        await soon(there, channel)
    tries = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries"
    await eventually(lambda: database.execute(tries)[0][0] >= 1)
    database.execute("DROP FUNCTION refuse() CASCADE")
    await eventually(lambda: accepted(here, channel), 5)
    assert marked(own_layers, there) == []


async def test_a_sweep_that_takes_long_holds_up_no_message(
    own_layers: Layers, eventually: Eventually
) -> None:
    """While somebody holds the state's row a full channel is told later, and all else is sent."""
    here, there = own_layers(), own_layers(capacity=10)
    full, free = await here.new_channel(), await there.new_channel()
    await there.send(full, {"type": "test"})
    await here.send(free, {"type": "test"})
    database = own_layers.database
    with psycopg.connect(**database.connection_params()) as sweep:
        sweep.execute("SELECT FROM channels_pg_secrets_state FOR UPDATE")
        for _ in range(100):
            await there.send(full, {"type": "test"})
        await eventually(lambda: here.stats()["full_channels"] == 1)
        began = time.monotonic()
        for _ in range(5):
            await asyncio.wait_for(here.send(free, {"type": "test"}), 3)
        assert marked(own_layers, here) == []
        sweep.rollback()
    assert time.monotonic() - began < 5
    await fill(there, full)
