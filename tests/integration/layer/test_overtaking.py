"""What comes late, or overtakes: ghosts of statements, joins behind large messages, replays."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import listener, node, statements, supervisor
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.layer.item import message_item
from channels_pg_secrets.layer.supervisor import Supervisor
from channels_pg_secrets.layer.wire import WireLost
from pg_secrets.testing.process import frozen
from pg_secrets.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Nothing = Callable[..., Awaitable[bool]]
    Eventually = Callable[..., Awaitable[Any]]


#: Bytes of a message that takes its receiver a moment to fetch.
LARGE = 8_000_000


def behind(proxy: FaultProxy, layers: Layers) -> PostgresChannelLayer:
    """Return a layer whose way to the server is the proxy."""
    engine = PostgresEngine({**layers.settings(), "PORT": proxy.port})
    layer = PostgresChannelLayer(engine, prefix=layers.prefix)
    layers.made.append(layer)
    return layer


def supervisor_of(layer: PostgresChannelLayer) -> Supervisor:
    """What keeps the layer's connections."""
    home = layer._here().homes.current
    assert home is not None
    assert home.supervisor is not None
    return home.supervisor


async def at_rest(layer: PostgresChannelLayer, eventually: Eventually) -> str:
    """Let a layer connect and write what it has; returns a channel of it."""
    channel = await layer.new_channel()

    def idle() -> bool:
        found = supervisor_of(layer)
        return (
            len(found.connected) == 2
            and found.publisher.wire is not None
            and found.publisher.wire.idle
        )

    await eventually(idle)
    return channel


async def test_a_late_ghost_of_the_last_leave_makes_no_group_deaf(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """A "nobody is left" that is carried out after a later join has no effect."""
    layer, other, database = layers(), layers(), layers.database
    gone, heard = await at_rest(layer, eventually), await layer.new_channel()
    await layer.group_add("group", gone)
    publisher = supervisor_of(layer).publisher
    wire = publisher.wire
    assert wire is not None
    await eventually(lambda: wire.idle)
    pid = wire.opened.connection.info.backend_pid
    with frozen(pid):
        await layer.group_discard("group", gone)
        await eventually(lambda: not publisher.settled.is_set())
        wire.abandon(WireLost("the server does not answer"))
        await asyncio.wait_for(layer.group_add("group", heard), 10)
    backend = "SELECT FROM pg_stat_activity WHERE pid = %s"
    await eventually(lambda: not database.execute(backend, (pid,)))
    await other.group_send("group", {"type": "test"})
    assert await soon(layer, heard) == {"type": "test"}


async def test_a_late_ghost_of_a_flush_empties_nothing(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """A flush that is carried out again after it returned takes no message with it."""
    layer, database = layers(), layers.database
    await at_rest(layer, eventually)
    publisher = supervisor_of(layer).publisher
    wire = publisher.wire
    assert wire is not None
    pid = wire.opened.connection.info.backend_pid
    with frozen(pid):
        flushing = asyncio.create_task(layer.flush())
        await eventually(lambda: not publisher.settled.is_set())
        wire.abandon(WireLost("the server does not answer"))
        await asyncio.wait_for(flushing, 10)
        await layer.send("work", {"type": "test"})
    backend = "SELECT FROM pg_stat_activity WHERE pid = %s"
    await eventually(lambda: not database.execute(backend, (pid,)))
    assert await soon(layer, "work") == {"type": "test"}


async def test_a_join_does_not_wait_behind_a_large_message(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """Who has joined another process's channel is heard there by all, whatever else it sent."""
    owner, adder, third = layers(), layers(), layers()
    channel, large = await at_rest(owner, eventually), await owner.new_channel()
    await at_rest(adder, eventually)
    await at_rest(third, eventually)
    for number in range(3):
        await adder.send(large, {"type": "test", "data": b"x" * LARGE})
        await adder.group_add(f"group{number}", channel)
        await third.group_send(f"group{number}", {"type": "test", "n": number})
        assert (await soon(owner, channel))["n"] == number
        await soon(owner, large)


async def test_what_came_after_a_join_is_replayed_after_it(
    layers: Layers, proxy: FaultProxy, soon: Soon, eventually: Eventually
) -> None:
    """A join and what others sent to the group since, all read from the rows, are heard."""
    owner = behind(proxy, layers)
    channel = await at_rest(owner, eventually)
    # Whichever of the two has the smaller number stands first in the rows.
    senders = [layers(), layers()]
    for sender in senders:
        await at_rest(sender, eventually)
    proxy.hold_answers()
    for number, (adder, other) in enumerate((senders, senders[::-1])):
        await adder.group_add(f"group{number}", channel)
        await other.group_send(f"group{number}", {"type": "test", "n": number})
    proxy.reset()
    proxy.release_answers()
    assert {(await soon(owner, channel))["n"] for _ in range(2)} == {0, 1}


async def test_a_replayed_leave_ends_no_later_join(
    layers: Layers, proxy: FaultProxy, soon: Soon, eventually: Eventually
) -> None:
    """A channel that has joined again since another process took it out stays in."""
    owner = behind(proxy, layers)
    other = layers()
    channel = await at_rest(owner, eventually)
    await at_rest(other, eventually)
    await owner.group_add("group", channel)
    proxy.hold_answers()
    await other.group_discard("group", channel)
    # Longer than a read of the rows takes: what is closer together counts in that order.
    await asyncio.sleep(0.1)
    assert owner._here().memberships.add("group", channel, local=True) is None
    proxy.reset()
    proxy.release_answers()
    await other.send(channel, {"type": "after"})
    assert await soon(owner, channel) == {"type": "after"}
    await other.group_send("group", {"type": "test"})
    assert await soon(owner, channel) == {"type": "test"}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_retry_finds_its_ghost_under_a_strict_isolation_level(
    layers: Layers, proxy: FaultProxy, eventually: Eventually, level: str
) -> None:
    """A role whose transactions see a fixed snapshot sends each message once, and none fails."""
    database, receiver = layers.database, layers()
    database.execute(
        f"ALTER ROLE {layers.login.user} SET default_transaction_isolation = '{level}'"
    )
    sender = behind(proxy, layers)
    channel = await at_rest(receiver, eventually)
    await at_rest(sender, eventually)
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(**database.connection_params()) as blocker:
        blocker.execute("SELECT pg_advisory_xact_lock(%s)", (sender._here().identity.node,))
        sending = asyncio.gather(
            *(sender.send(channel, {"type": "test", "n": n}) for n in range(3))
        )
        await eventually(lambda: database.execute(locks) == [(1,)])
        proxy.reset()
        await eventually(lambda: database.execute(locks) == [(2,)])
        blocker.rollback()
        await asyncio.wait_for(sending, 15)
    await sender.send(channel, {"type": "test", "n": 3})
    received = [(await receiver.receive(channel))["n"] for _ in range(4)]
    assert received == [0, 1, 2, 3]


async def test_nothing_from_before_a_flush_waits_behind_a_large_message(
    layers: Layers, nothing: Nothing, eventually: Eventually
) -> None:
    """What has arrived and waits for a large message's body is emptied by a flush too."""
    owner, sender, third = layers(), layers(), layers()
    channel = await at_rest(owner, eventually)
    await at_rest(sender, eventually)
    await at_rest(third, eventually)
    for _ in range(3):
        await sender.send(channel, {"type": "large", "data": b"x" * LARGE})
        await sender.send(channel, {"type": "small"})
        await third.flush()
        assert await nothing(owner, channel, 0.3)


async def test_a_normal_channels_membership_is_not_brought_back(
    layers: Layers, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that registers again does not write what others have discarded since."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.1)
    adder, other, database = layers(), layers(), layers.database
    await at_rest(adder, eventually)
    await adder.group_add("group", "worker")
    await other.group_discard("group", "worker")
    node = adder._here().identity.node
    database.execute("DELETE FROM channels_pg_secrets_node WHERE id = %s", (node,))
    entered = "SELECT FROM channels_pg_secrets_node WHERE id = %s"
    await eventually(lambda: database.execute(entered, (node,)))
    await adder.group_add("other", "worker")  # written after all that was to be written again
    members = "SELECT grp FROM channels_pg_secrets_normal_member WHERE prefix = %s"
    assert database.execute(members, (layers.prefix,)) == [("other",)]


async def test_what_waits_behind_a_large_message_is_bounded(
    layers: Layers, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames beyond the bound are dropped and read again from their rows: none is lost."""
    monkeypatch.setattr(listener, "_BUFFER_BYTES", 20_000)
    owner, sender = layers(capacity=1000), layers()
    channel = await at_rest(owner, eventually)
    await at_rest(sender, eventually)
    overflowed: list[None] = []
    found = supervisor_of(owner).listener
    reread = found.on_overflow

    def overflow() -> None:
        overflowed.append(None)
        reread()

    found.on_overflow = overflow
    await sender.send(channel, {"type": "large", "data": b"x" * 2 * LARGE, "n": 0})
    sending = [sender.send(channel, {"n": n, "data": b"x" * 1000}) for n in range(1, 200)]
    await asyncio.gather(*sending)
    received = [(await owner.receive(channel))["n"] for _ in range(200)]
    assert received == list(range(200))
    assert overflowed


async def test_readers_that_are_gone_are_announced_nothing(
    layers: Layers, eventually: Eventually
) -> None:
    """A normal channel that was read from once costs its senders nothing for ever after."""
    layer, database = layers(), layers.database
    await at_rest(layer, eventually)
    rows = "SELECT count(*) FROM channels_pg_secrets_reader WHERE prefix = %s"
    for number in range(5):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(f"reply.{number}"), 0.1)
    assert database.execute(rows, (layers.prefix,)) == [(5,)]

    def forgotten() -> bool:
        layer._here().sweep()
        layer._here().kick()
        return database.execute(rows, (layers.prefix,)) == [(0,)]

    await eventually(forgotten)


async def test_a_patient_layer_that_left_keeps_no_rows(
    own_layers: Layers, eventually: Eventually
) -> None:
    """How long rows are kept is what the layers that are there need, not those that were."""
    database, patient = own_layers.database, own_layers(expiry=86_400)
    await at_rest(patient, eventually)
    impatient = own_layers()
    await at_rest(impatient, eventually)
    longest = "SELECT max(span) FROM channels_pg_secrets_node"
    assert database.execute(longest) == [(43_200.0,)]
    await patient.close()
    assert database.execute(longest) == [(30.0,)]


async def test_an_owner_that_is_silent_holds_nobody_up(
    layers: Layers, soon: Soon, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join of a process that does not answer returns in time, and counts when that is back."""
    monkeypatch.setattr(node, "OWNER_TIMEOUT", 0.3)
    owner, other = layers(), layers()
    channel = await at_rest(owner, eventually)
    wire = supervisor_of(owner).listener.wire
    assert wire is not None
    with frozen(wire.opened.connection.info.backend_pid):
        began = time.monotonic()
        await other.group_add("group", channel)
        assert 0.3 <= time.monotonic() - began < 2
        await other.group_send("group", {"type": "test"})
    assert await soon(owner, channel) == {"type": "test"}


async def test_catching_up_goes_on_where_a_connection_ended(
    own_layers: Layers, soon: Soon, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that registered again, and lost its connection then, still gets what was kept."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.5)
    layer, database = own_layers(), own_layers.database
    channel = await at_rest(layer, eventually)
    await layer.group_add("group", channel)
    kept = message_item("g", "group", layer.engine.serialize({"type": "kept"})).decode()
    row = (12345, 1, kept, layer.prefix)
    catching_up = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE query LIKE '%%catch_up%%' AND wait_event_type = 'Lock' AND datname = %s"
    )
    with psycopg.connect(**database.connection_params(), autocommit=True) as blocker:
        blocker.execute("SELECT pg_advisory_lock(7919, 2)")
        database.execute(
            "TRUNCATE channels_pg_secrets_state, channels_pg_secrets_node,"
            " channels_pg_secrets_member"
        )
        database.execute(
            "INSERT INTO channels_pg_secrets_message_0 (node, sender, seq, expires, body, blob)"
            " VALUES (-1, %s, %s, now() + interval '1 minute', %s, convert_to(%s, 'UTF8'))",
            row,
        )
        ended = await eventually(lambda: database.execute(catching_up, (database.name,)))
        database.execute("SELECT pg_terminate_backend(%s)", ended[0])
    assert await soon(layer, channel) == {"type": "kept"}


async def test_a_late_ghost_of_a_claim_takes_nothing(
    layers: Layers, proxy: FaultProxy, soon: Soon, eventually: Eventually
) -> None:
    """A claim that arrives when its node has another connection does not pass messages by."""
    sender, worker, database = layers(), behind(proxy, layers), layers.database
    await at_rest(worker, eventually)
    await sender.send("work", {"type": "test", "n": 0})
    assert (await soon(worker, "work"))["n"] == 0  # the claim is prepared from now on
    wire = supervisor_of(worker).publisher.wire
    assert wire is not None
    await eventually(lambda: wire.idle and not worker._here().normal_channels.unsettled)
    proxy.hold_open()
    receiving: asyncio.Future[Any] = asyncio.ensure_future(soon(worker, "work"))
    await eventually(lambda: wire._current is not None and wire._current[0] is statements.CLAIM)
    for link in supervisor_of(worker)._links:
        assert link.wire is not None
        link.wire.abandon(WireLost("given up"))
    for number in (1, 2, 3):
        await sender.send("work", {"type": "test", "n": number})
    assert (await receiving)["n"] == 1
    backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    assert database.execute(backends, (layers.login.user,))[0][0] > 4
    proxy.release()
    # The sessions that nobody has any more end when they have done what was sent to them.
    await eventually(lambda: database.execute(backends, (layers.login.user,)) == [(4,)])
    claimed = (
        "SELECT count(*) FROM channels_pg_secrets_queue WHERE prefix = %s AND claim IS NOT NULL"
    )
    await eventually(lambda: database.execute(claimed, (layers.prefix,)) == [(0,)], 1.0)
    assert [(await soon(worker, "work"))["n"] for _ in range(2)] == [2, 3]
