"""A Redis of each test's own, and layers on it."""

from __future__ import annotations

import asyncio
import runpy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import django
import pytest
from django.conf import settings

from channels_pg_secrets.engines import RedisEngine
from pg_secrets import CredentialSource
from pg_secrets.testing.redis import RedisServer

if not settings.configured:
    _module = runpy.run_path(str(Path(__file__).parents[2] / "settings.py"))
    settings.configure(**{name: value for name, value in _module.items() if name.isupper()})
django.setup()

HOW_TO = Path(__file__).parents[3] / "docs" / "howto" / "redis.md"


class Hasty(RedisEngine):
    """Does not wait as long for other credentials."""

    settings: ClassVar[frozenset[str]] = frozenset()
    rejection_budget: ClassVar[float] = 1.0


@pytest.fixture
def rules() -> list[str]:
    """The rights of a layer's user, as the how-to writes them."""
    line = next(line for line in HOW_TO.read_text().splitlines() if line.startswith("ACL SETUSER"))
    return [word for word in line.split()[3:] if word != "on" and not word.startswith(">")]


@pytest.fixture
def server(redis_server: RedisServer, rules: list[str]) -> RedisServer:
    """A running Redis with a user ``app`` whose password is ``first``."""
    redis_server.set_user("app", "first", *rules)
    return redis_server


@pytest.fixture(params=["core", "pubsub"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of channels_redis' layers it is."""
    return str(request.param)


async def flushed(layer: Any) -> None:
    """Flush a layer of channels_redis, which for the one on pub/sub ends its connections.

    It cancels a task and waits for it for ever, and redis-py swallows a cancellation now and then
    before Python 3.12. The next one ends it.
    """
    flushing = asyncio.ensure_future(layer.flush())
    while not (await asyncio.wait([flushing], timeout=5))[0]:
        flushing.cancel()
    await flushing


@pytest.fixture
async def make(server: RedisServer, kind: str) -> AsyncIterator[Callable[..., Any]]:
    """Makes layers, as the user ``app`` where there is no source, and closes them afterwards."""
    made: list[Any] = []

    def build(source: CredentialSource | None = None, **config: Any) -> Any:
        where = {"HOST": server.host, "PORT": server.port, "LAYER": kind}
        login = {"USER": "app", "PASSWORD": "first"} if source is None else {}
        layer = Hasty({**where, **login, **config}, source).channel_layer()
        made.append(layer)
        return layer

    yield build
    for layer in made:
        await (layer.close_pools() if kind == "core" else flushed(layer))


async def _until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits until a function, which may block, returns something true."""
    return _until


async def _soon(layer: Any, channel: str) -> Any:
    return await asyncio.wait_for(layer.receive(channel), 10)


@pytest.fixture
def soon() -> Callable[..., Awaitable[Any]]:
    """Receives one message, and fails where there is none within ten seconds."""
    return _soon
