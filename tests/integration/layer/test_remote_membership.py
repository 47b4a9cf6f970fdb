"""Group membership of channels that others own, and of channels that nobody owns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from channels_pg_secrets.layer import node, supervisor

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Nothing = Callable[..., Awaitable[bool]]
    Eventually = Callable[..., Awaitable[Any]]

ROWS = """
    SELECT grp FROM channels_pg_secrets_member WHERE prefix = %(prefix)s
    UNION ALL SELECT grp FROM channels_pg_secrets_normal_member WHERE prefix = %(prefix)s
"""


async def test_another_process_joins_a_channel(layers: Layers, soon: Soon) -> None:
    """When group_add of another process's channel returns, a third process's messages reach it."""
    owner, adder, sender = layers(), layers(), layers()
    channel = await owner.new_channel()
    for number in range(20):
        await adder.group_add(f"group{number}", channel)
        await sender.group_send(f"group{number}", {"type": "test", "n": number})
        assert (await soon(owner, channel))["n"] == number


async def test_another_process_takes_a_channel_out(
    layers: Layers, soon: Soon, nothing: Nothing
) -> None:
    """After a discard by another process its messages no longer come, though others' do."""
    owner, other = layers(), layers()
    gone, stays = await owner.new_channel(), await owner.new_channel()
    for channel in (gone, stays):
        await owner.group_add("group", channel)
    await other.group_discard("group", gone)
    await other.group_send("group", {"type": "test"})
    assert await soon(owner, stays) == {"type": "test"}
    assert await nothing(owner, gone)


async def test_the_owner_takes_out_what_another_added(layers: Layers, nothing: Nothing) -> None:
    """A channel that another process added is out of the group when its owner discards it."""
    owner, other = layers(), layers()
    channel = await owner.new_channel()
    await other.group_add("group", channel)
    await owner.group_discard("group", channel)
    await other.group_send("group", {"type": "test"})
    assert await nothing(owner, channel)


async def test_the_owners_decision_after_anothers_counts(
    layers: Layers, soon: Soon, nothing: Nothing, eventually: Eventually
) -> None:
    """What an owner decides when another process's join or leave has returned comes after it."""
    owner, other = layers(), layers()
    channel = await owner.new_channel()
    for number in range(20):
        await other.group_add("group", channel)
        await owner.group_discard("group", channel)
        await other.group_send("group", {"type": "nobody"})
        await other.send(channel, {"type": "comes after it"})
        assert await soon(owner, channel) == {"type": "comes after it"}
        await owner.group_add("group", channel)
        await other.group_discard("group", channel)
        await owner.group_add("group", channel)
        await other.group_send("group", {"type": "test", "n": number})
        assert await soon(owner, channel) == {"type": "test", "n": number}
        await owner.group_discard("group", channel)
    assert await nothing(owner, channel)
    await eventually(lambda: not layers.database.execute(ROWS, {"prefix": layers.prefix}))


async def test_a_channel_whose_process_is_gone_holds_nobody_up(layers: Layers) -> None:
    """Joins and leaves of channels that are no more return at once: nobody could answer."""
    gone, stays = layers(), layers()
    channel = await gone.new_channel()
    await stays.new_channel()
    await gone.close()
    began = time.monotonic()
    await stays.group_add("group", channel)
    await stays.group_discard("group", channel)
    assert time.monotonic() - began < node.OWNER_TIMEOUT
    assert layers.database.execute(ROWS, {"prefix": layers.prefix}) == []


async def test_joining_twice_from_two_processes(
    layers: Layers, soon: Soon, nothing: Nothing
) -> None:
    """A channel added by owner and others is one member, and one discard ends it."""
    owner, other = layers(), layers()
    channel = await owner.new_channel()
    await asyncio.gather(owner.group_add("group", channel), other.group_add("group", channel))
    await other.group_send("group", {"type": "test"})
    assert await soon(owner, channel) == {"type": "test"}
    await other.group_discard("group", channel)
    await other.group_send("group", {"type": "test"})
    assert await nothing(owner, channel)


async def test_nothing_is_left_of_a_group_that_everybody_left(
    layers: Layers, eventually: Eventually
) -> None:
    """Joins and leaves by owner and others, in any order, leave no row behind in the end."""
    owner, other = layers(), layers()
    channel = await owner.new_channel()
    for adder, discarder in ((other, owner), (owner, other), (other, other)):
        await adder.group_add("group", channel)
        await owner.group_add("group", channel)
        await discarder.group_discard("group", channel)
        assert await eventually(
            lambda: not layers.database.execute(ROWS, {"prefix": layers.prefix}), timeout=3
        )


async def test_adds_racing_discards_end_as_the_last_one_says(layers: Layers, soon: Soon) -> None:
    """A thousand joins and leaves, the last of them a join, leave a member."""
    owner, other, sender = layers(), layers(), layers()
    channels = [await owner.new_channel() for _ in range(5)]

    async def churn(channel: str) -> None:
        for _ in range(50):
            await owner.group_add("group", channel)
            await owner.group_discard("group", channel)
        for _ in range(10):
            await other.group_add("group", channel)
            await other.group_discard("group", channel)
        await other.group_add("group", channel)

    await asyncio.gather(*map(churn, channels))
    await sender.group_send("group", {"type": "test"})
    for channel in channels:
        assert await soon(owner, channel) == {"type": "test"}


async def test_a_join_from_elsewhere_survives_the_owners_last_leave(
    layers: Layers, soon: Soon
) -> None:
    """The last member leaving while another process adds one does not lose the new one."""
    owner, other = layers(), layers()
    leaving, joining = await owner.new_channel(), await owner.new_channel()
    for number in range(30):
        group = f"group{number}"
        await owner.group_add(group, leaving)
        await asyncio.gather(owner.group_discard(group, leaving), other.group_add(group, joining))
        await other.group_send(group, {"type": "test", "n": number})
        assert (await soon(owner, joining))["n"] == number


async def test_a_local_discard_counts_at_once(layers: Layers, nothing: Nothing) -> None:
    """A channel has left when its owner's discard returns, whoever sends afterwards."""
    owner, sender = layers(), layers()
    channel = await owner.new_channel()
    for number in range(20):
        await owner.group_add("group", channel)
        sending = asyncio.create_task(sender.group_send("group", {"type": "test", "n": number}))
        await owner.group_discard("group", channel)
        while not await nothing(owner, channel, 0.005):
            pass
        await sending
    await sender.group_send("group", {"type": "late"})
    assert await nothing(owner, channel)


async def test_membership_of_a_process_that_has_left(layers: Layers, soon: Soon) -> None:
    """A group whose other members' process has gone still reaches those that are left."""
    leaver, stayer, sender = layers(), layers(), layers()
    await leaver.group_add("group", await leaver.new_channel())
    channel = await stayer.new_channel()
    await stayer.group_add("group", channel)
    await leaver.close()
    await sender.group_send("group", {"type": "test"})
    assert await soon(stayer, channel) == {"type": "test"}
    assert len(layers.database.execute(ROWS, {"prefix": layers.prefix})) == 1


async def test_adding_a_channel_of_a_process_that_is_gone(layers: Layers) -> None:
    """Adding a channel whose process has gone raises nothing and leaves no row."""
    gone, other = layers(), layers()
    channel = await gone.new_channel()
    await gone.close()
    await other.group_add("group", channel)
    await other.group_send("group", {"type": "test"})
    assert not layers.database.execute(ROWS, {"prefix": layers.prefix})


# Normal channels --------------------------------------------------------------------------


async def test_a_normal_channel_in_a_group(layers: Layers, soon: Soon, nothing: Nothing) -> None:
    """A normal channel in a group gets each message once, in any one process."""
    adder, sender, worker = layers(), layers(), layers()
    await adder.group_add("group", "worker")
    await sender.group_add("group", "worker")
    await sender.group_send("group", {"type": "test"})
    assert await soon(worker, "worker") == {"type": "test"}
    assert await nothing(adder, "worker")


async def test_a_normal_channel_discarded_by_another(layers: Layers, nothing: Nothing) -> None:
    """When a discard of a normal channel returns, nobody's messages reach it."""
    adder, other, sender = layers(), layers(), layers()
    await adder.group_add("group", "worker")
    await other.group_discard("group", "worker")
    await sender.group_send("group", {"type": "test"})
    assert await nothing(other, "worker")


async def test_a_normal_channel_added_again_after_anothers_discard(
    layers: Layers, soon: Soon
) -> None:
    """A normal channel can be added again by whoever added it before another discarded it."""
    adder, other = layers(), layers()
    await adder.group_add("group", "worker")
    await other.group_discard("group", "worker")
    await adder.group_add("group", "worker")
    await other.group_send("group", {"type": "test"})
    assert await soon(other, "worker") == {"type": "test"}


async def test_a_normal_channels_membership_lasts_from_anybodys_latest_add(
    layers: Layers, soon: Soon, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A normal channel stays in its group for group_expiry after whoever added it last."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.1)
    first, last = layers(group_expiry=0.6), layers(group_expiry=0.6)
    await first.group_add("group", "worker")
    await asyncio.sleep(0.4)
    await last.group_add("group", "worker")
    await asyncio.sleep(0.35)
    await first.group_send("group", {"type": "test"})
    assert await soon(last, "worker") == {"type": "test"}


async def test_a_foreign_join_expires(layers: Layers, soon: Soon, nothing: Nothing) -> None:
    """A membership written by another process ends group_expiry after that."""
    owner, other = layers(group_expiry=0.5), layers(group_expiry=0.5)
    channel = await owner.new_channel()
    await other.group_add("group", channel)
    await other.group_send("group", {"type": "in time"})
    assert await soon(owner, channel) == {"type": "in time"}
    await asyncio.sleep(0.55)
    await other.group_send("group", {"type": "over"})
    assert await nothing(owner, channel)
