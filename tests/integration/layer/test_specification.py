"""Channels' specification of a channel layer, claim by claim."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_pg_secrets.engines import MemoryEngine
from channels_pg_secrets.layer import channel_layer, supervisor

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Peer

    Make = Callable[..., Any]
    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Nothing = Callable[..., Awaitable[bool]]
    Eventually = Callable[..., Awaitable[Any]]
    Peers = Callable[..., Peer]

POSTGRES = "postgres"
MEGABYTE = {"type": "test", "text": "ä" * 350_000, "more": [{"n": n} for n in range(40_000)]}


@pytest.fixture(params=[POSTGRES, "memory"])
def make(request: pytest.FixtureRequest, layers: Layers) -> Make:
    """Makes a layer of either engine."""
    if request.param == POSTGRES:
        return layers
    return MemoryEngine({}).channel_layer


# Messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\xff bytes",
        "text with \x00 and ß and \U0001f600",
        0,
        -(2**63),
        2**63 - 1,
        1.5,
        -0.0,
        float("inf"),
        True,
        False,
        None,
        [],
        [1, "a", [b"b", None]],
        {},
        {"deeper": {"and": {"deeper": [1, {"x": 2.5}]}}},
        "",
        b"",
    ],
    ids=repr,
)
async def test_a_value_arrives_as_it_was(make: Make, soon: Soon, value: object) -> None:
    """Every type a message may hold arrives equal and of the same type."""
    layer = make()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "test", "value": value})
    arrived = (await soon(layer, channel))["value"]
    assert arrived == value
    assert type(arrived) is type(value)


async def test_a_message_sent_is_not_changed_by_its_sender_later(make: Make, soon: Soon) -> None:
    """What arrives is what the message was when it was sent."""
    layer = make()
    channel = await layer.new_channel()
    message = {"type": "test", "list": [1]}
    await layer.send(channel, message)
    message["list"].append(2)  # type: ignore[attr-defined]
    assert (await soon(layer, channel))["list"] == [1]


async def test_members_of_a_group_share_nothing(make: Make, soon: Soon) -> None:
    """What one receiver does to its message is not seen by another."""
    layer = make()
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", one)
    await layer.group_add("group", other)
    await layer.group_send("group", {"type": "test", "list": [1]})
    (await soon(layer, one))["list"].append(2)
    assert (await soon(layer, other))["list"] == [1]


async def test_tuples_become_lists(layers: Layers, soon: Soon) -> None:
    """A tuple arrives as a list, in this process and in another."""
    here, there = layers(), layers()
    for channel, layer in ((await here.new_channel(), here), (await there.new_channel(), there)):
        await here.send(channel, {"type": "test", "value": (1, (2, 3))})
        assert (await soon(layer, channel))["value"] == [1, [2, 3]]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
async def test_integers_beyond_64_bits_are_refused(layers: Layers, number: int) -> None:
    """An integer that does not fit into 64 bits raises before anything is sent."""
    layer = layers()
    with pytest.raises(ValueError, match="64 bits"):
        await layer.send("channel", {"type": "test", "number": number})


@pytest.mark.parametrize("message", [None, "text", [1], b"bytes"])
async def test_only_dicts_are_messages(layers: Layers, message: Any) -> None:
    """Anything but a dict raises TypeError from send and group_send."""
    layer = layers()
    with pytest.raises(TypeError, match="dict"):
        await layer.send("channel", message)
    with pytest.raises(TypeError, match="dict"):
        await layer.group_send("group", message)


async def test_a_megabyte_to_a_channel(make: Make, soon: Soon) -> None:
    """A message of 1 MB as JSON arrives on a channel."""
    layer = make()
    channel = await layer.new_channel()
    await layer.send(channel, MEGABYTE)
    assert await soon(layer, channel) == MEGABYTE


async def test_a_megabyte_to_another_process(layers: Layers, soon: Soon) -> None:
    """A message of 1 MB as JSON reaches another process's channel and a normal one."""
    here, there = layers(), layers()
    channel = await there.new_channel()
    for name in (channel, "normal"):
        await here.send(name, MEGABYTE)
        assert await soon(there, name) == MEGABYTE


async def test_a_megabyte_to_a_group(layers: Layers, soon: Soon) -> None:
    """A message of 1 MB as JSON reaches all members of a group, in every process."""
    here, there = layers(), layers()
    members = [(here, await here.new_channel()), (there, await there.new_channel())]
    members.append((there, "normal"))
    for layer, channel in members:
        await layer.group_add("group", channel)
    await here.group_send("group", MEGABYTE)
    for layer, channel in members:
        assert await soon(layer, channel) == MEGABYTE


@pytest.mark.parametrize("size", [5700, 5760, 5773, 5774, 5775, 5800, 7800, 7999, 8000, 8200])
async def test_sizes_about_a_notifications_limit(layers: Layers, soon: Soon, size: int) -> None:
    """A message arrives whether it just fits into a notification or just does not."""
    here, there = layers(), layers()
    channel = await there.new_channel("p" * 60)
    await there.group_add("g" * 99, channel)
    message = {"type": "test", "data": b"\xff" * size}
    await here.send(channel, message)
    await here.group_send("g" * 99, message)
    await here.send("n" * 99, message)
    assert [await soon(there, channel), await soon(there, channel)] == [message] * 2
    assert await soon(there, "n" * 99) == message


async def test_too_large_a_message_is_refused(layers: Layers) -> None:
    """Beyond 16 MiB send and group_send raise MessageTooLarge."""
    layer = layers()
    message = {"type": "test", "data": b"x" * channel_layer.MAX_MESSAGE}
    with pytest.raises(MessageTooLarge):
        await layer.send("channel", message)
    with pytest.raises(MessageTooLarge):
        await layer.group_send("group", message)


async def test_small_messages_do_not_overtake_a_large_one(layers: Layers, soon: Soon) -> None:
    """A sender's messages arrive in order also where one of them travels as a row."""
    here, there = layers(), layers()
    channel = await there.new_channel()
    sends = []
    for number in range(30):
        data = b"x" * (200_000 if number % 3 == 0 else 10)
        sends.append(here.send(channel, {"type": "test", "n": number, "data": data}))
    await asyncio.gather(*sends)
    assert [(await soon(there, channel))["n"] for _ in range(30)] == list(range(30))


# Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a" * 99, "A-b_c.9", "some.worker!", "some.worker!x"])
async def test_names_channels_allows_are_taken(make: Make, name: str) -> None:
    """Every name within Channels' rules can be sent to."""
    await make().send(name, {"type": "test"})


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 100,
        "a b",
        "a\n",
        "a!b\n",
        "ä",
        "a\u0661",
        "a!\u0661",
        "a!b!c",
        "a/b",
        1,
        None,
        b"a",
    ],
)
async def test_invalid_channel_names_are_refused_everywhere(layers: Layers, name: Any) -> None:
    """A name outside Channels' rules, a trailing newline included, raises TypeError."""
    layer = layers()
    for call in (
        layer.send(name, {"type": "test"}),
        layer.receive(name),
        layer.group_add("group", name),
        layer.group_discard("group", name),
    ):
        with pytest.raises(TypeError, match="Channel name"):
            await call


@pytest.mark.parametrize("name", ["", "a" * 100, "a b", "a\n", "a!b", "\u0661", 1, None])
async def test_invalid_group_names_are_refused_everywhere(layers: Layers, name: Any) -> None:
    """A group's name outside Channels' rules raises TypeError."""
    layer = layers()
    for call in (
        layer.group_send(name, {"type": "test"}),
        layer.group_add(name, "channel"),
        layer.group_discard(name, "channel"),
    ):
        with pytest.raises(TypeError, match="Group name"):
            await call


async def test_the_longest_names_work(layers: Layers, soon: Soon) -> None:
    """Names of 99 characters work for normal channels and groups."""
    layer = layers()
    group, channel = "g" * 99, "c" * 99
    await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "test"})
    assert await soon(layer, channel) == {"type": "test"}


async def test_new_channels_are_unique_and_valid(make: Make) -> None:
    """A thousand new channels have a thousand names, each process-specific and sendable."""
    layer = make()
    names = {await layer.new_channel("chat") for _ in range(1000)}
    assert len(names) == 1000
    assert all(re.fullmatch(r"chat[\w.\-]*![\w.\-]+", name, re.ASCII) for name in names)
    assert max(map(len, names)) < 100
    await layer.send(names.pop(), {"type": "test"})


async def test_new_channels_of_two_processes_differ(layers: Layers) -> None:
    """The part up to and including the "!" says which process a channel belongs to."""
    one, other = layers(), layers()
    prefixes = {(await layer.new_channel()).split("!")[0] for layer in (one, one, other, other)}
    assert len(prefixes) == 2


async def test_receive_takes_full_names_only(layers: Layers) -> None:
    """A name that ends in "!" cannot be received from."""
    layer = layers()
    channel = await layer.new_channel()
    with pytest.raises(TypeError, match="full channel name"):
        await layer.receive(channel[: channel.index("!") + 1])


async def test_another_processs_channel_cannot_be_received_from(layers: Layers) -> None:
    """Receiving on a channel of another process raises instead of waiting for ever."""
    one, other = layers(), layers()
    channel = await one.new_channel()
    with pytest.raises(ValueError, match="another process"):
        await other.receive(channel)


async def test_extensions(make: Make) -> None:
    """The layer says that it has groups and flush."""
    assert sorted(make().extensions) == ["flush", "groups"]


# Capacity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("normal", [False, True], ids=["own", "normal"])
async def test_a_full_channel_raises(make: Make, soon: Soon, normal: bool) -> None:
    """Beyond its capacity a channel raises ChannelFull, and takes more once it was read."""
    layer = make(capacity=3)
    channel = "normal" if normal else await layer.new_channel()
    for number in range(3):
        await layer.send(channel, {"type": "test", "n": number})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "test", "n": 3})
    assert (await soon(layer, channel))["n"] == 0
    await layer.send(channel, {"type": "test", "n": 4})
    assert [(await soon(layer, channel))["n"] for _ in range(3)] == [1, 2, 4]


async def test_capacity_by_pattern(make: Make) -> None:
    """channel_capacity takes globs and regular expressions; the first that fits decides."""
    capacities = {"small.*": 1, re.compile(r"large\d"): 3}
    layer = make(capacity=2, channel_capacity=capacities)
    for channel, capacity in (("small.one", 1), ("large1", 3), ("other", 2)):
        for _ in range(capacity):
            await layer.send(channel, {"type": "test"})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "test"})


async def test_capacity_by_pattern_at_the_receiver(
    layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """Another process's channel keeps its capacity: what is over it is dropped or refused."""
    here, there = layers(), layers(channel_capacity={"small.*": 2})
    channel = await there.new_channel("small")

    async def taken(number: int) -> bool:
        try:
            await here.send(channel, {"type": "test", "n": number})
        except ChannelFull:
            return False
        return True

    assert await taken(0)
    assert await taken(1)
    for number in (2, 3):
        await taken(number)
    marker = await there.new_channel()
    await here.send(marker, {"type": "marker"})
    await soon(there, marker)
    assert [(await soon(there, channel))["n"] for _ in range(2)] == [0, 1]
    await eventually(lambda: taken(5))
    assert (await soon(there, channel))["n"] == 5


async def test_a_group_passes_over_full_members(make: Make, soon: Soon, nothing: Nothing) -> None:
    """group_send to a full member raises nothing, and the others get the message."""
    layer = make(capacity=1)
    full, free = await layer.new_channel(), await layer.new_channel()
    for channel in (full, free):
        await layer.group_add("group", channel)
    await layer.send(full, {"type": "earlier"})
    await layer.group_send("group", {"type": "test"})
    assert (await soon(layer, free))["type"] == "test"
    assert (await soon(layer, full))["type"] == "earlier"
    assert await nothing(layer, full)


async def test_a_group_passes_over_full_normal_channels(
    layers: Layers, soon: Soon, nothing: Nothing
) -> None:
    """group_send to a full normal channel raises nothing, with the capacity of who joined it."""
    layer = layers(channel_capacity={"normal": 1})
    await layer.group_add("group", "normal")
    for number in range(3):
        await layer.group_send("group", {"type": "test", "n": number})
    assert (await soon(layer, "normal"))["n"] == 0
    assert await nothing(layer, "normal")


# Expiry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normal", [False, True], ids=["own", "normal"])
async def test_messages_expire(make: Make, soon: Soon, nothing: Nothing, normal: bool) -> None:
    """A message that nobody reads in time is gone, and later ones are delivered."""
    layer = make(expiry=0.4, capacity=1)
    channel = "normal" if normal else await layer.new_channel()
    await layer.send(channel, {"type": "old"})
    await asyncio.sleep(0.5)
    assert await nothing(layer, channel)
    await layer.send(channel, {"type": "new"})
    assert await soon(layer, channel) == {"type": "new"}


async def test_expired_messages_do_not_fill_a_channel(layers: Layers) -> None:
    """An expired message counts no longer towards the capacity, read or not."""
    layer = layers(expiry=0.3, capacity=1)
    channels = [await layer.new_channel(), "normal"]
    for channel in channels:
        await layer.send(channel, {"type": "test"})
    await asyncio.sleep(0.4)
    for channel in channels:
        await layer.send(channel, {"type": "test"})


# Receiving --------------------------------------------------------------------------------


async def test_each_message_has_one_reader(make: Make) -> None:
    """Of many readers of one channel exactly one gets each message."""
    layer = make()
    channel = await layer.new_channel()
    readers = [asyncio.create_task(layer.receive(channel)) for _ in range(20)]
    await asyncio.sleep(0)
    for number in range(20):
        await layer.send(channel, {"type": "test", "n": number})
    received = await asyncio.wait_for(asyncio.gather(*readers), 10)
    assert sorted(message["n"] for message in received) == list(range(20))


async def test_order_within_a_process(make: Make, soon: Soon) -> None:
    """One writer's messages reach one reader of a process-specific channel in order."""
    layer = make()
    channel = await layer.new_channel()
    for number in range(100):
        await layer.send(channel, {"type": "test", "n": number})
    assert [(await soon(layer, channel))["n"] for _ in range(100)] == list(range(100))


async def test_order_between_processes(layers: Layers, soon: Soon) -> None:
    """One writer's messages to another process's channel, direct and by group, arrive in order."""
    here, there = layers(), layers(capacity=2000)
    channel = await there.new_channel()
    await there.group_add("group", channel)
    for number in range(0, 600, 2):
        await here.send(channel, {"type": "test", "n": number})
        await here.group_send("group", {"type": "test", "n": number + 1})
    assert [(await soon(there, channel))["n"] for _ in range(600)] == list(range(600))


@pytest.mark.parametrize("normal", [False, True], ids=["own", "normal"])
async def test_cancelled_receives_lose_nothing(layers: Layers, normal: bool) -> None:
    """Receives that are cancelled at any moment lose no message and change no order."""
    layer, sender = layers(capacity=1000), layers()
    channel = "normal" if normal else await layer.new_channel()
    count = 60
    received: list[int] = []

    async def send() -> None:
        for number in range(count):
            await sender.send(channel, {"type": "test", "n": number})

    sending = asyncio.create_task(send())
    turns = 0
    while len(received) < count:
        task = asyncio.create_task(layer.receive(channel))
        for _ in range(turns % 23):
            await asyncio.sleep(0)
        turns += 1
        if turns % 5 == 0:
            await asyncio.wait([task], timeout=0.02)
        task.cancel()
        try:
            received.append((await task)["n"])
        except asyncio.CancelledError:
            assert turns < 5000, f"only {len(received)} have come"
    await sending
    if normal:
        # Given back after a cancelled receive, one may come after its successor.
        assert sorted(received) == list(range(count))
    else:
        assert received == list(range(count))


async def test_a_cancelled_receive_passes_its_message_on(make: Make, soon: Soon) -> None:
    """A message whose receiver is cancelled in that moment goes to the next receiver."""
    layer = make()
    channel = await layer.new_channel()
    first, second = (asyncio.create_task(layer.receive(channel)) for _ in range(2))
    await asyncio.sleep(0.01)
    await layer.send(channel, {"type": "test"})
    first.cancel()
    message = await asyncio.wait_for(second, 5)
    assert message == {"type": "test"}
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_busy_channel_does_not_starve_a_quiet_one(layers: Layers, soon: Soon) -> None:
    """One message on a quiet channel arrives while another channel is flooded."""
    here, there = layers(), layers(capacity=100)
    busy, quiet = await there.new_channel(), await there.new_channel()
    stop = False

    async def flood(channel: str) -> None:
        while not stop:
            try:
                await here.send(channel, {"type": "flood", "data": "x" * 500})
            except ChannelFull:
                await asyncio.sleep(0)

    async def drain(channel: str) -> None:
        while True:
            await there.receive(channel)

    tasks = [asyncio.create_task(flood(channel)) for channel in (busy, busy, "busy", "busy")]
    tasks.append(asyncio.create_task(drain("busy")))
    try:
        for _ in range(5):
            for channel in (quiet, "quiet"):
                await here.send(channel, {"type": "quiet"})
                assert (await soon(there, channel, 3))["type"] == "quiet"
    finally:
        stop = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_channel_leaves_its_neighbours_their_capacity(layers: Layers) -> None:
    """One consumer that does not read costs no other consumer of its process a message."""
    layer = layers(capacity=2)
    slow, other = await layer.new_channel(), await layer.new_channel()
    for _ in range(2):
        await layer.send(slow, {"type": "test"})
    for _ in range(2):
        await layer.send(other, {"type": "test"})
    with pytest.raises(ChannelFull):
        await layer.send(slow, {"type": "test"})


# Groups -----------------------------------------------------------------------------------


async def test_adding_twice_delivers_once(make: Make, soon: Soon, nothing: Nothing) -> None:
    """A channel added to a group twice gets each message once, and one discard ends it."""
    layer = make()
    channel = await layer.new_channel()
    for _ in range(2):
        await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "test"})
    assert await soon(layer, channel) == {"type": "test"}
    assert await nothing(layer, channel)
    await layer.group_discard("group", channel)
    await layer.group_send("group", {"type": "test"})
    assert await nothing(layer, channel)


async def test_discarding_an_absent_member_is_no_error(make: Make) -> None:
    """Discarding a channel that is in no such group, own or normal, does nothing."""
    layer = make()
    await layer.group_discard("group", await layer.new_channel())
    await layer.group_discard("group", "normal")


async def test_sending_to_an_empty_group_is_no_error(make: Make) -> None:
    """A group without members takes messages."""
    await make().group_send("nobody", {"type": "test"})


async def test_groups_are_apart(make: Make, soon: Soon, nothing: Nothing) -> None:
    """A message to one group reaches no member of another."""
    layer = make()
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("one", one)
    await layer.group_add("other", other)
    await layer.group_send("one", {"type": "test"})
    assert await soon(layer, one) == {"type": "test"}
    assert await nothing(layer, other)


async def test_a_sender_in_the_group_gets_its_own_message_once(layers: Layers, soon: Soon) -> None:
    """Members in the sender's own process get each group message once."""
    layer = layers()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    for number in range(3):
        await layer.group_send("group", {"type": "test", "n": number})
    await layer.send(channel, {"type": "test", "n": "last"})
    assert [(await soon(layer, channel))["n"] for _ in range(4)] == [0, 1, 2, "last"]


async def test_membership_expires_after_the_latest_add(
    layers: Layers, soon: Soon, nothing: Nothing
) -> None:
    """A membership ends group_expiry after the latest add, not after the first."""
    here, there = layers(group_expiry=0.8), layers(group_expiry=0.8)
    members = [(here, await here.new_channel()), (there, await there.new_channel())]
    members.append((there, "normal"))
    for layer, channel in members:
        await layer.group_add("group", channel)
    await asyncio.sleep(0.5)
    for layer, channel in members:
        await layer.group_add("group", channel)
    await asyncio.sleep(0.5)
    await here.group_send("group", {"type": "still"})
    for layer, channel in members:
        assert await soon(layer, channel) == {"type": "still"}
    await asyncio.sleep(0.4)
    await here.group_send("group", {"type": "over"})
    for layer, channel in members:
        assert await nothing(layer, channel), channel


async def test_a_normal_channels_membership_ends_on_time(layers: Layers, nothing: Nothing) -> None:
    """A normal channel's membership does not outlast group_expiry, as a process's does not."""
    layer = layers(group_expiry=2)
    await layer.group_add("group", "normal")
    await asyncio.sleep(2.05)
    await layer.group_send("group", {"type": "over"})
    assert await nothing(layer, "normal")


# Flush ------------------------------------------------------------------------------------


async def test_flush_empties_a_layer(make: Make, nothing: Nothing) -> None:
    """After a flush there are no messages and no groups."""
    layer = make()
    own, member = await layer.new_channel(), await layer.new_channel()
    for channel in (own, "normal"):
        await layer.send(channel, {"type": "test"})
    for channel in (member, "member"):
        await layer.group_add("group", channel)
    await layer.flush()
    await layer.group_send("group", {"type": "test"})
    for channel in (own, "normal", member, "member"):
        assert await nothing(layer, channel), channel


async def test_flush_empties_other_processes(
    layers: Layers, peers: Peers, soon: Soon, nothing: Nothing
) -> None:
    """When flush returns, every other process has dropped its messages and groups too."""
    here, there, peer = layers(), layers(), peers()
    channel, member = await there.new_channel(), await there.new_channel()
    in_peer = await peer("new_channel")
    await here.send(channel, {"type": "test"})
    for layer, name in ((there, member), (here, "normal"), (here, in_peer)):
        await layer.group_add("group", name)
    await here.group_send("group", {"type": "test", "id": "before"})
    await peer("wait_for", in_peer, 1)
    await here.send("normal", {"type": "test"})
    await here.flush()
    await here.group_send("group", {"type": "test", "id": "after"})
    await here.send(in_peer, {"type": "test", "id": "direct"})
    for name in (channel, member, "normal"):
        assert await nothing(there, name), name
    assert await peer("wait_for", in_peer, 2) == ["before", "direct"]


async def test_a_layer_works_after_a_flush(layers: Layers, soon: Soon) -> None:
    """Channels stay valid and groups can be joined again after a flush."""
    here, there = layers(), layers()
    channel = await there.new_channel()
    await there.group_add("group", channel)
    await here.flush()
    await there.group_add("group", channel)
    await here.group_send("group", {"type": "test"})
    assert await soon(there, channel) == {"type": "test"}


async def test_a_receive_outlasts_a_flush(make: Make) -> None:
    """Whoever waits while the layer is flushed gets the next message."""
    layer = make()
    channel = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.01)
    if isinstance(layer, channel_layer.PostgresChannelLayer):
        await layer.flush()
    await layer.send(channel, {"type": "test"})
    assert await asyncio.wait_for(waiting, 10) == {"type": "test"}


async def test_flush_spares_layers_of_another_prefix(
    layers: Layers, soon: Soon, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush takes nothing from a layer with another prefix, then or later."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.1)
    flushed, other = layers(), layers(prefix=f"{layers.prefix}-other")
    await flushed.new_channel()
    channel = await other.new_channel()
    await other.group_add("group", channel)
    await other.send(channel, {"type": "before"})
    await flushed.flush()
    query = "SELECT seen FROM channels_pg_secrets_node WHERE prefix = %s"
    for _ in range(2):
        seen = layers.database.execute(query, (other.prefix,))
        await eventually(lambda: layers.database.execute(query, (other.prefix,)) != seen)  # noqa: B023
    await other.group_send("group", {"type": "after"})
    assert [(await soon(other, channel))["type"] for _ in range(2)] == ["before", "after"]


async def test_prefixes_keep_layers_apart(layers: Layers, soon: Soon, nothing: Nothing) -> None:
    """Layers with different prefixes share neither normal channels nor groups."""
    one, other = layers(), layers(prefix=f"{layers.prefix}-other")
    channel = await one.new_channel()
    await one.group_add("group", channel)
    await other.group_send("group", {"type": "test"})
    await other.send("normal", {"type": "test"})
    assert await nothing(one, channel)
    assert await nothing(one, "normal")
    assert await soon(other, "normal") == {"type": "test"}


async def test_a_normal_channels_capacity_counts_its_own_messages(layers: Layers) -> None:
    """Other channels' messages that lie between count for nothing."""
    layer = layers(capacity=4)
    for number in range(4):
        await layer.send("one", {"type": "test", "id": number})
        for other in ("two", "three"):
            with contextlib.suppress(ChannelFull):
                await layer.send(other, {"type": "test", "id": number})
    with pytest.raises(ChannelFull):
        await layer.send("one", {"type": "test", "id": 4})
    await layer.receive("one")
    await layer.send("one", {"type": "test", "id": 4})
