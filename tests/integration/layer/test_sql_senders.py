"""Sends from SQL: from a trigger, from a user's own transaction, from another language."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Nothing = Callable[..., Awaitable[bool]]
    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

SEND = "SELECT channels_pg_secrets_send_v1(%s, %s::jsonb, %s)"
GROUP_SEND = "SELECT channels_pg_secrets_group_send_v1(%s, %s::jsonb, %s)"


@pytest.fixture
async def user(layers: Layers) -> AsyncIterator[Connection]:
    """A connection of the runtime role, in a transaction as soon as it does something."""
    params = layers.database.connection_params(layers.login)
    async with await psycopg.AsyncConnection.connect(**params) as connection:
        yield connection


async def test_a_send_arrives_when_its_transaction_commits(
    layers: Layers, user: Connection, soon: Soon, nothing: Nothing
) -> None:
    """Nothing of a transaction's sends is seen before it commits, and all of it afterwards."""
    layer = layers()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_add("group", "member")
    await user.execute(SEND, (channel, '{"type": "direct"}', layers.prefix))
    await user.execute(GROUP_SEND, ("group", '{"type": "group"}', layers.prefix))
    await user.execute(SEND, ("normal", '{"type": "normal"}', layers.prefix))
    for name in (channel, "member", "normal"):
        assert await nothing(layer, name)
    await user.commit()
    assert [(await soon(layer, channel))["type"] for _ in range(2)] == ["direct", "group"]
    assert await soon(layer, "member") == {"type": "group"}
    assert await soon(layer, "normal") == {"type": "normal"}


async def test_a_send_of_a_transaction_that_rolls_back_never_arrives(
    layers: Layers, user: Connection, soon: Soon, nothing: Nothing
) -> None:
    """A rolled-back transaction's sends are as if they had not been made."""
    layer = layers()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await user.execute(SEND, (channel, '{"type": "direct"}', layers.prefix))
    await user.execute(GROUP_SEND, ("group", '{"type": "group"}', layers.prefix))
    await user.execute(SEND, ("normal", '{"type": "normal"}', layers.prefix))
    await user.rollback()
    await user.execute(SEND, (channel, '{"type": "later"}', layers.prefix))
    await user.commit()
    assert await soon(layer, channel) == {"type": "later"}
    for name in (channel, "normal"):
        assert await nothing(layer, name)


async def test_equal_sends_of_one_transaction_all_arrive(
    layers: Layers, user: Connection, soon: Soon
) -> None:
    """Identical messages in one transaction are not folded into one."""
    layer = layers()
    channel = await layer.new_channel()
    for _ in range(3):
        await user.execute(SEND, (channel, '{"type": "same"}', layers.prefix))
    await user.commit()
    for _ in range(3):
        assert await soon(layer, channel) == {"type": "same"}


@pytest.mark.parametrize("size", [10, 5800, 7900, 300_000])
async def test_sizes(layers: Layers, user: Connection, soon: Soon, size: int) -> None:
    """A message of any size sent from SQL arrives on channels of both kinds and in groups."""
    layer = layers()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_add("group", "member")
    message = {"type": "test", "text": 'ä"\\\n' * (size // 4), "n": [1, 2.5, None, True]}
    for name in (channel, "normal"):
        await user.execute(SEND, (name, json.dumps(message), layers.prefix))
    await user.execute(GROUP_SEND, ("group", json.dumps(message), layers.prefix))
    await user.commit()
    for name in (channel, channel, "normal", "member"):
        assert await soon(layer, name) == message


async def test_a_layer_with_encryption_hears_sql(
    layers: Layers, user: Connection, soon: Soon
) -> None:
    """Messages from SQL, which has no key, are delivered by layers that encrypt."""
    layer = layers(symmetric_encryption_keys=["key"])
    channel = await layer.new_channel()
    for name in (channel, "normal"):
        await user.execute(SEND, (name, '{"type": "test"}', layers.prefix))
    await user.commit()
    for name in (channel, "normal"):
        assert await soon(layer, name) == {"type": "test"}


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "\u0661", "a!b!c", "x" * 100, "a,b", None])
async def test_invalid_names_are_refused(
    layers: Layers, user: Connection, name: str | None
) -> None:
    """A name outside Channels' rules is an error in SQL too."""
    for statement in (SEND, GROUP_SEND):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a valid"):
            await user.execute(statement, (name, '{"type": "test"}', layers.prefix))
        await user.rollback()


async def test_a_groups_name_has_no_exclamation_mark(layers: Layers, user: Connection) -> None:
    """What could only be a channel's name is refused as a group's."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a valid"):
        await user.execute(GROUP_SEND, ("a!b", '{"type": "test"}', layers.prefix))


@pytest.mark.parametrize("message", ["[1]", '"text"', "null", "1", None])
async def test_only_objects_are_messages(
    layers: Layers, user: Connection, message: str | None
) -> None:
    """JSON that is no object is refused."""
    for statement in (SEND, GROUP_SEND):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="JSON object"):
            await user.execute(statement, ("name", message, layers.prefix))
        await user.rollback()


async def test_a_full_normal_channel_is_an_error(
    layers: Layers, user: Connection, soon: Soon
) -> None:
    """Beyond p_capacity a send to a normal channel raises 53400."""
    send = "SELECT channels_pg_secrets_send_v1(%s, %s::jsonb, %s, p_capacity => 2)"
    for number in range(2):
        await user.execute(send, ("normal", json.dumps({"n": number}), layers.prefix))
    await user.commit()
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="capacity of 2"):
        await user.execute(send, ("normal", "{}", layers.prefix))
    await user.rollback()
    layer = layers()
    assert [(await soon(layer, "normal"))["n"] for _ in range(2)] == [0, 1]


async def test_a_message_that_python_cannot_hold_harms_no_other(
    layers: Layers,
    user: Connection,
    soon: Soon,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A number beyond 64 bits sent from SQL is logged and skipped; receive() raises nothing."""
    layer = layers()
    channel = await layer.new_channel()
    with caplog.at_level(logging.CRITICAL, "channels_pg_secrets"):
        for name in (channel, "normal"):
            await user.execute(SEND, (name, '{"n": 99999999999999999999}', layers.prefix))
            await user.execute(SEND, (name, '{"n": 1}', layers.prefix))
        await user.commit()
        for name in (channel, "normal"):
            assert await soon(layer, name) == {"n": 1}


async def test_a_send_to_a_process_that_is_gone_is_no_error(
    layers: Layers, user: Connection
) -> None:
    """Sending to a channel whose process has gone, or to a layer nobody runs, raises nothing."""
    gone = layers()
    channel = await gone.new_channel()
    await gone.close()
    await user.execute(SEND, (channel, "{}", layers.prefix))
    await user.execute(GROUP_SEND, ("group", "{}", layers.prefix))
    await user.commit()
