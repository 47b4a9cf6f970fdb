"""What a sender is told when there is no connection to be had."""

from __future__ import annotations

import logging

import pytest

from channels_pg_secrets import ChannelLayerUnavailable
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from pg_secrets import LoginRejected
from pg_secrets.testing.database import FreshDatabase


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
