"""Hunting for the password in everything that leaves the Redis engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import AuthenticationError

from channels_pg_secrets.engines import RedisEngine
from channels_pg_secrets.engines.redis_connection import Following
from channels_pg_secrets.engines.redis_logins import Answering, Logins
from pg_secrets import Credentials, CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.canary import Hunt
from pg_secrets.testing.redis import RedisServer
from tests.integration.redis.conftest import flushed

pytestmark = pytest.mark.usefixtures("in_no_log")


@pytest.fixture
def canary_redis(hunt: Hunt, server: RedisServer, rules: list[str]) -> RedisServer:
    """A Redis with a user ``app`` whose password is the canary."""
    server.set_user("app", hunt.password(), *rules)
    return server


@pytest.fixture
def config(kind: str, canary_redis: RedisServer) -> dict[str, Any]:
    return {"HOST": canary_redis.host, "PORT": canary_redis.port, "LAYER": kind}


async def test_redis_shows_nothing(
    hunt: Hunt, canary_redis: RedisServer, config: dict[str, Any], rules: list[str]
) -> None:
    """Through login and rotation engine, layer, pools and connections hide it."""
    adapter = ScriptedAdapter(Credentials(user="app", password=hunt.password()))
    source = CredentialSource(adapter)
    engine = RedisEngine(config, source)
    layer: Any = engine.channel_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "direct"})
    assert await asyncio.wait_for(layer.receive(channel), 10)
    canary_redis.set_user("next", hunt.password(), *rules)
    adapter.then(Credentials(user="next", password=hunt.password()))
    await asyncio.to_thread(source.refresh)
    await layer.send(channel, {"type": "direct"})
    assert "next" in canary_redis.users()
    shown = [engine, layer, *seen_by_redis()]
    assert len(shown) > 5
    for thing in shown:
        hunt.in_object(thing)
        hunt.in_text("attributes", repr(vars(thing)))
    await (layer.close_pools() if config["LAYER"] == "core" else flushed(layer))
    source.close()


def seen_by_redis() -> Iterator[Any]:
    """Yield every pool, connection and way to log in that lives."""
    for thing in gc.get_objects():
        if issubclass(type(thing), (Following, Answering, Logins, ConnectionPool)):
            yield thing


async def test_redis_refusals_show_nothing(
    hunt: Hunt, canary_redis: RedisServer, config: dict[str, Any]
) -> None:
    """A password that Redis refuses is in no refusal, the settings' no more than the store's."""
    canary_redis.set_user("app", "another")
    login = {"USER": "app", "PASSWORD": hunt.password()}
    for _ in range(2):
        with pytest.raises(AuthenticationError) as caught:
            await RedisEngine({**config, **login}).channel_layer().send("asgi-a", {})
        hunt.in_exception(caught.value)


async def test_cancelled_redis_logins_show_nothing(
    hunt: Hunt, canary_redis: RedisServer, config: dict[str, Any]
) -> None:
    """Wherever a cancellation meets a login, it carries no frame with the password out."""
    login = {"USER": "app", "PASSWORD": hunt.password()}
    cancelled = 0
    # How many steps a login takes is up to the machine: a slow client finds its answers there.
    for steps in list(range(1, 160, 4)) * 5:
        layer: Any = RedisEngine({**config, **login}).channel_layer()
        task = asyncio.ensure_future(layer.send("asgi-a", {"type": "direct"}))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            hunt.in_exception(error)
            cancelled += 1
        await (layer.close_pools() if config["LAYER"] == "core" else flushed(layer))
        if cancelled == 30:
            return
    pytest.fail(f"only {cancelled} logins were cancelled")
