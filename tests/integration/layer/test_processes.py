"""Real processes: what one sends another receives, all of it, once and in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Peer

    Peers = Callable[..., Peer]
    Eventually = Callable[..., Awaitable[Any]]


def in_order(received: list[list[Any]], sender: str) -> list[int]:
    """Return the numbers of one sender as they came."""
    return [number for name, number in received if name == sender]


async def test_two_processes_exchange_channels(peers: Peers) -> None:
    """Two processes that send to each other at once get everything, once and in order."""
    one, other = peers(capacity=10_000), peers(capacity=10_000)
    to_one, to_other = await one("new_channel"), await other("new_channel")
    count = 1500
    await asyncio.gather(
        one("send_many", to_other, "one", count), other("send_many", to_one, "other", count)
    )
    assert in_order(await one("wait_for", to_one, count), "other") == list(range(count))
    assert in_order(await other("wait_for", to_other, count), "one") == list(range(count))
    assert len(await one("received", to_one)) == len(await other("received", to_other)) == count


@pytest.mark.long
async def test_many_senders_reach_one_receiver(layers: Layers, peers: Peers) -> None:
    """Three processes' messages to one channel all arrive, each sender's in order."""
    receiver = peers(capacity=10_000)
    channel = await receiver("new_channel")
    senders = {name: peers() for name in "abc"}
    count = 500
    await asyncio.gather(
        *(peer("send_many", channel, name, count) for name, peer in senders.items())
    )
    received = await receiver("wait_for", channel, 3 * count)
    assert len(received) == 3 * count
    for name in senders:
        assert in_order(received, name) == list(range(count))


async def test_a_group_over_three_processes(layers: Layers, peers: Peers) -> None:
    """Each of a group's members in three processes gets every message of every sender once."""
    group = [peers(capacity=10_000) for _ in range(3)]
    members = [(peer, await peer("new_channel")) for peer in group for _ in range(2)]
    for peer, channel in members:
        await peer("group_add", "group", channel)
    count = 100

    async def send(sender: int) -> None:
        ids = [[str(sender), number] for number in range(count)]
        await group[sender]("group_send", "group", *ids)

    await asyncio.gather(*map(send, range(3)))
    for peer, channel in members:
        received = await peer("wait_for", channel, 3 * count)
        assert len(received) == 3 * count
        for sender in "012":
            assert in_order(received, sender) == list(range(count))


async def test_two_workers_share_a_normal_channel(layers: Layers, peers: Peers) -> None:
    """Of what is sent to a normal channel each message is taken by exactly one of two processes."""
    workers = [peers(), peers()]
    for worker in workers:
        await worker("listen", "work")
    sender = layers(capacity=10_000)
    count = 300
    for number in range(count):
        await sender.send("work", {"type": "test", "id": number})
    done: list[int] = []
    for _ in range(200):
        done = [id_ for worker in workers for id_ in await worker("received", "work")]
        if len(done) >= count:
            break
        await asyncio.sleep(0.02)
    assert Counter(done) == Counter(range(count))


async def test_membership_across_processes(layers: Layers, peers: Peers) -> None:
    """One process joins another's channel to a group and takes it out again."""
    owner, other = peers(), peers()
    channel = await owner("new_channel")
    await other("group_add", "group", channel)
    await other("group_send", "group", "in")
    await other("group_discard", "group", channel)
    await other("group_send", "group", "out")
    await other("send", channel, "direct")
    assert await owner("wait_for", channel, 2) == ["in", "direct"]


async def test_a_process_that_ends_leaves_nothing(
    layers: Layers, peers: Peers, eventually: Eventually
) -> None:
    """A process that closes its layer leaves neither node nor member nor session behind."""
    peer = peers()
    channel = await peer("new_channel")
    await peer("group_add", "group", channel)
    rows = "SELECT count(*) FROM channels_pg_secrets_node WHERE prefix = %s"
    assert layers.database.execute(rows, (layers.prefix,)) == [(1,)]
    await asyncio.to_thread(peer.close)
    assert layers.database.execute(rows, (layers.prefix,)) == [(0,)]
    assert await eventually(lambda: layers.backends() == 0)


async def test_a_layer_that_closes_while_its_connections_change_leaves_nothing(
    layers: Layers,
) -> None:
    """Neither a connection that is taking over just then nor a send enters the node again."""
    for step in range(30):
        layer = layers()
        await layer.group_add("group", await layer.new_channel())
        moving = asyncio.ensure_future(layer.reconnect())
        await asyncio.sleep(step / 1000)
        sending = asyncio.ensure_future(layer.send("specific.0000000000000001!1", {"n": step}))
        await asyncio.sleep(0)
        await layer.close()
        # Both are told that it is closed, unless they had their way before.
        await asyncio.wait_for(asyncio.gather(moving, sending, return_exceptions=True), 5.0)
    rows = "SELECT count(*) FROM channels_pg_secrets_node WHERE prefix = %s"
    assert layers.database.execute(rows, (layers.prefix,)) == [(0,)]
