"""What a sender is told when there is no connection to be had."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from channels_pg_secrets import ChannelLayerUnavailable
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from pg_secrets import LoginRejected
from pg_secrets.testing.database import FreshDatabase
from tests.integration.layer.conftest import Layers


async def test_a_refused_login_is_named_to_the_sender_and_logged_once(
    database: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender reads what the server said, while the login is left alone too, and the cause."""
    login = database.login()
    settings = {**database.settings(login), "PASSWORD": "canary-of-a-wrong-password"}
    layer = PostgresChannelLayer(PostgresEngine(settings), send_timeout=1.5)
    with (
        caplog.at_level(logging.WARNING, "channels_pg_secrets"),
        pytest.raises(ChannelLayerUnavailable) as caught,
    ):
        await layer.send("work", {"type": "test"})
    await layer.close()
    assert f'password authentication failed for user "{login.user}"' in str(caught.value)
    assert isinstance(caught.value.__cause__, LoginRejected)
    assert "canary" not in caplog.text + repr(caught.value.__cause__)
    said = {record.getMessage().partition(" cannot connect: ")[2] for record in caplog.records}
    assert len(caplog.records) <= 2
    assert len(said) == 1


async def test_a_database_that_is_away_is_named_to_the_sender(database: FreshDatabase) -> None:
    """The sender reads where the layer tried to connect to."""
    settings = {**database.settings(database.owner), "PORT": 1}
    layer = PostgresChannelLayer(PostgresEngine(settings), send_timeout=0.5)
    with pytest.raises(ChannelLayerUnavailable, match="port 1 failed"):
        await layer.send("work", {"type": "test"})
    await layer.close()


async def test_receivers_are_told_that_the_layer_was_closed(layers: Layers) -> None:
    """Whoever waits for a message, of either kind of channel and in any loop, waits no longer."""
    layer = layers()
    own = await layer.new_channel()
    here = [asyncio.ensure_future(layer.receive(name)) for name in (own, own, "work")]
    began = threading.Barrier(2)

    async def receive_there(channel: str) -> None:
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await asyncio.to_thread(began.wait, 5)
        await receiving

    there = asyncio.ensure_future(asyncio.to_thread(asyncio.run, receive_there(own)))
    await asyncio.to_thread(began.wait, 5)
    await layer.close()
    for told in asyncio.as_completed([*here, there], timeout=5):
        with pytest.raises(ChannelLayerUnavailable, match="closed"):
            await told


async def test_a_closed_layer_can_be_used_again(layers: Layers) -> None:
    """After close() the next use is that of a new node."""
    layer = layers()
    await layer.send("work", {"type": "before"})
    await layer.close()
    await layer.send("work", {"type": "after"})
    assert [(await layer.receive("work"))["type"] for _ in range(2)] == ["before", "after"]
