"""The Redis engine's layers on a real Redis: messages, logins, servers that are away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from channels_pg_secrets.engines import RedisEngine
from pg_secrets import credential_source
from pg_secrets.testing.redis import RedisServer
from tests.integration.redis.conftest import flushed

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]
Soon = Callable[..., Awaitable[Any]]


async def test_a_layer_delivers(make: Make, soon: Soon) -> None:
    """Messages to a channel and to a group arrive with a login from the settings."""
    layer = make(NAME=1)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "group", "text": "h\u00e9llo"})
    assert await soon(layer, channel) == {"type": "group", "text": "h\u00e9llo"}
    await layer.group_discard("group", channel)
    await layer.send(channel, {"type": "direct"})
    assert await soon(layer, channel) == {"type": "direct"}
    await flushed(layer)


async def test_logins_of_every_other_form(server: RedisServer, kind: str, soon: Soon) -> None:
    """A password alone, a Unix socket and a URL with a login will do as well."""
    for config in (
        {"HOST": server.host, "PORT": server.port, "PASSWORD": server.password},
        {"HOST": str(server.socket), "PASSWORD": server.password},
        {"hosts": [f"redis://app:first@{server.host}:{server.port}"]},
    ):
        layer: Any = RedisEngine({"LAYER": kind, **config}).channel_layer()
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "direct"})
        assert await soon(layer, channel) == {"type": "direct"}
        await flushed(layer)


@pytest.mark.parametrize("adapter", ["files", "env"])
async def test_credentials_come_from_an_adapter(
    server: RedisServer,
    make: Make,
    soon: Soon,
    adapter: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Messages arrive with a login from files or from the environment."""
    (tmp_path / "username").write_text("app")
    (tmp_path / "password").write_text("first")
    monkeypatch.setenv("REDIS_USER", "app")
    monkeypatch.setenv("REDIS_PASSWORD", "first")
    files: dict[str, Any] = {"ADAPTER": "files", "DIRECTORY": str(tmp_path)}
    env = {"ADAPTER": "env", "USERNAME": "REDIS_USER", "PASSWORD": "REDIS_PASSWORD"}
    source = credential_source(files if adapter == "files" else env)
    layer = make(source)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "direct"})
    assert await soon(layer, channel) == {"type": "direct"}
    assert set(await asyncio.to_thread(server.users)) == {"app"}
    source.close()


async def test_a_receiver_outlives_a_restart(server: RedisServer, until: Until, soon: Soon) -> None:
    """A core layer's receiver waits for a server that is away, and then gets its message."""
    where = {"HOST": server.host, "PORT": server.port}
    layer: Any = RedisEngine({**where, "PASSWORD": server.password}).channel_layer()
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(soon(layer, channel))
    await until(lambda: server.users())
    await asyncio.to_thread(server.restart)
    await layer.send(channel, {"type": "direct"})
    assert await receiving == {"type": "direct"}
    await layer.close_pools()


async def test_a_server_that_stays_away_is_an_error(
    server: RedisServer, until: Until, soon: Soon
) -> None:
    """A core layer's receiver gives up in the end."""
    where = {"HOST": server.host, "PORT": server.port}
    layer: Any = RedisEngine({**where, "PASSWORD": server.password}).channel_layer()
    layer.reconnect_budget = 0.3
    receiving = asyncio.ensure_future(soon(layer, await layer.new_channel()))
    await until(lambda: server.users())
    await asyncio.to_thread(server.stop)
    with pytest.raises(exceptions.ConnectionError):
        await receiving
    await layer.close_pools()


async def test_a_frozen_server_is_an_error_in_time(server: RedisServer) -> None:
    """A send to a server that does not answer ends after socket_timeout."""
    where = {"HOST": server.host, "PORT": server.port, "LAYER": "pubsub"}
    options = {"PASSWORD": server.password, "OPTIONS": {"socket_timeout": 0.3}}
    layer: Any = RedisEngine({**where, **options}).channel_layer()
    await layer.send("channel", {"type": "direct"})
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.TimeoutError, match=r"within 0\.3 seconds"):
            await asyncio.wait_for(layer.send("channel", {"type": "direct"}), 10)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await layer.send("channel", {"type": "direct"})
    await flushed(layer)


async def test_a_receiver_that_is_cancelled_ends(make: Make) -> None:
    """Wherever a cancellation meets a receiver, it is not swallowed."""
    layer = make()
    for steps in range(60):
        receiving = asyncio.ensure_future(layer.receive(await layer.new_channel()))
        for _ in range(steps):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving], timeout=3)
        assert receiving.cancelled(), f"after {steps} steps"
