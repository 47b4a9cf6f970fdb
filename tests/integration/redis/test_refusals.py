"""Redis refuses a login: what is said, and how often Redis is asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import exceptions

from channels_pg_secrets.engines import RedisEngine
from channels_pg_secrets.errors import LayerMisconfigured
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


@pytest.mark.parametrize("kind", ["core"])
async def test_a_receiver_is_told_that_its_login_is_refused(
    server: RedisServer, make: Make, until: Until
) -> None:
    """Whoever waits for a message gets the refusal, not that a connection was lost."""
    source = CredentialSource(ScriptedAdapter(Credentials(user="app", password="first")))
    layer = make(source)
    receiving = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await until(server.users)
    await asyncio.to_thread(server.delete_user, "app")
    with pytest.raises(exceptions.AuthenticationError, match="user 'app': login refused"):
        await asyncio.wait_for(receiving, 10)
    assert layer.reconnect_budget > RedisEngine.rejection_budget
    source.close()


async def test_a_password_of_the_settings_counts_where_the_store_has_none(
    server: RedisServer, make: Make
) -> None:
    """``PASSWORD`` and ``USER`` fill what ``CREDENTIALS`` leave open."""
    source = CredentialSource(ScriptedAdapter(Credentials(user="app")))
    await make(source, USER="nobody", PASSWORD="first").send("asgi-jobs", {"type": "job"})
    assert set(await asyncio.to_thread(server.users)) == {"app"}
    source.close()


async def test_a_sentinel_that_is_silent_is_not_waited_for(make: Make, kind: str) -> None:
    """It has its time-out, and the next one is asked, once each."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        sentinels = [(server.getsockname()[0], server.getsockname()[1]) for server in (one, two)]
        hasty = {"socket_timeout": 0.1}
        host = {"sentinels": sentinels, "master_name": "chat", "sentinel_kwargs": hasty}
        login = {"USER": "app", "PASSWORD": "first"}
        with pytest.raises(LayerMisconfigured, match="'hosts' and also PASSWORD, USER"):
            RedisEngine({"LAYER": kind, "hosts": [host], **login})
        layer = RedisEngine({"LAYER": kind, "hosts": [host]}).channel_layer()
        with pytest.raises(exceptions.ConnectionError, match="chat"):
            await asyncio.wait_for(layer.send("asgi-jobs", {"type": "job"}), 10)


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
