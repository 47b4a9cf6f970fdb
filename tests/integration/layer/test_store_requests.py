"""What a layer asks of the store while messages travel: nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pg_secrets.credentials import Credentials
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.clock import FakeClock

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

MESSAGES = 1000


@pytest.mark.parametrize("background", [True, False], ids=["refreshed", "on demand"])
async def test_no_message_asks_the_store(layers: Layers, background: bool) -> None:
    """Two layers fetch once when they log in; a thousand messages later nothing more was asked."""
    adapter = ScriptedAdapter(Credentials(user=layers.login.user, password=layers.login.password))
    # Its time stands still, so that nothing falls due by itself.
    clock = FakeClock()
    source = CredentialSource(adapter, background=background, clock=clock)
    sender, receiver = (layers(credentials=source, capacity=2 * MESSAGES) for _ in range(2))
    assert adapter.fetches == 0  # building a layer asks for nothing either
    await sender.new_channel()  # this loop is home from the start: moving there is a login
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)
    await sender.group_send("group", {"number": 0})
    assert await _numbers(receiver, channel, 1) == [0]
    asked = (adapter.fetches, adapter.looked, source.stats()["fetches"])
    assert asked[0] == 1
    if not background:
        clock.advance(2 * source.ttl)  # from now on whoever asks the source has it ask the store
    # At most so many at once: a full channel is another test's matter.
    for start in range(0, MESSAGES, 100):
        for number in range(start, start + 100):
            if number % 2:
                await sender.send(channel, {"number": number})
            else:
                await sender.group_send("group", {"number": number})
        assert await _numbers(receiver, channel, 100) == list(range(start, start + 100))
    assert (adapter.fetches, adapter.looked, source.stats()["fetches"]) == asked
    await sender.close()
    await receiver.close()
    source.close()


async def _numbers(layer: object, channel: str, count: int) -> list[int]:
    received = []
    for _ in range(count):
        message = await asyncio.wait_for(layer.receive(channel), 20)  # type: ignore[attr-defined]
        received.append(message["number"])
    return received
