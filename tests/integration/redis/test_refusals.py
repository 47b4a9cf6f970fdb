"""Redis refuses a login: what is said, and how often Redis is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import exceptions

from pg_secrets import Credentials, CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.redis import RedisServer

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]


async def test_a_wrong_password_is_said_and_not_hammered(server: RedisServer, make: Make) -> None:
    """The error says where and who; twenty sends ask Redis once."""
    layer = make(PASSWORD="wrong")
    for _ in range(20):
        with pytest.raises(exceptions.AuthenticationError) as caught:
            await layer.send("asgi-jobs", {"type": "job"})
        assert f"host={server.host} port={server.port}" in str(caught.value)
        assert "user 'app'" in str(caught.value)
    assert await asyncio.to_thread(server.refusals) == 1


@pytest.mark.parametrize("kind", ["pubsub"])
async def test_a_wrong_password_in_the_store_is_not_hammered(
    server: RedisServer, make: Make
) -> None:
    """While other credentials are waited for, the same are tried at growing intervals."""
    source = CredentialSource(ScriptedAdapter(Credentials(user="app", password="wrong")))
    layer = make(source)
    with pytest.raises(exceptions.AuthenticationError, match="login refused: invalid"):
        await layer.send("asgi-jobs", {"type": "job"})
    assert 1 <= await asyncio.to_thread(server.refusals) <= 3
    source.close()


async def test_without_any_login_the_refusal_says_so(make: Make) -> None:
    """A server that wants a password is reported with its own words."""
    with pytest.raises(exceptions.AuthenticationError, match="user 'default'"):
        await make(USER="", PASSWORD="").send("asgi-jobs", {"type": "job"})


@pytest.mark.parametrize("kind", ["pubsub"])
async def test_a_store_that_lags_is_waited_for(
    server: RedisServer, make: Make, until: Until, rules: list[str]
) -> None:
    """A connection that is refused gets through when the store has the new password."""
    store = ScriptedAdapter(Credentials(user="app", password="first"))
    server.set_user("app", "second", *rules)
    source = CredentialSource(store)
    sending = asyncio.ensure_future(make(source).send("asgi-jobs", {"type": "job"}))
    await until(lambda: server.refusals() > 0)
    store.then(Credentials(user="app", password="second"))
    await asyncio.wait_for(sending, 10)
    assert await asyncio.to_thread(server.refusals) <= 3
    source.close()
