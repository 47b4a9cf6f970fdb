"""Redis over TLS: whom a layer trusts, and logins that change there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from pg_secrets import Credentials, CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.process import free_port
from pg_secrets.testing.redis import RedisServer
from tests.integration.adapters.certificate import self_signed

Make = Callable[..., Any]
Until = Callable[..., Awaitable[None]]
Soon = Callable[..., Awaitable[Any]]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """The files of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    file, key = self_signed(tmp_path)
    return str(file), str(key)


@pytest.fixture
def tls_port(server: RedisServer, certificate: tuple[str, str]) -> int:
    """The port where the server speaks TLS too."""
    port, (file, key) = free_port(), certificate
    settings = {
        "tls-cert-file": file,
        "tls-key-file": key,
        "tls-ca-cert-file": file,
        "tls-auth-clients": "no",
        "tls-port": str(port),
    }
    try:
        for name, value in settings.items():
            server.execute("CONFIG", "SET", name, value)
    except ResponseError as error:
        pytest.skip(f"this redis-server does not speak TLS ({error})")
    return port


def sessions_of(server: RedisServer, user: str) -> dict[str, bool]:
    """Say of each session of a user, by its id, whether it came to the TLS port."""
    plain = f":{server.port}"
    with server.client() as client:
        found = [session for session in client.client_list() if session["user"] == user]
    return {session["id"]: not session["laddr"].endswith(plain) for session in found}


async def test_a_login_changes_in_place(
    server: RedisServer,
    rules: list[str],
    make: Make,
    until: Until,
    soon: Soon,
    tls_port: int,
    certificate: tuple[str, str],
) -> None:
    """Messages go on over the same encrypted connections, as another user."""
    store = ScriptedAdapter(Credentials(user="app", password="first"))
    source = CredentialSource(store)
    layer = make(source, PORT=tls_port, OPTIONS={"ssl_ca_certs": certificate[0]})
    channel = await layer.new_channel()

    async def pass_on(number: int) -> None:
        await layer.send(channel, {"n": number})
        assert (await soon(layer, channel))["n"] == number

    await pass_on(1)
    before = await asyncio.to_thread(sessions_of, server, "app")
    assert before
    assert all(before.values())
    await asyncio.to_thread(server.set_user, "other", "second", *rules)
    store.then(Credentials(user="other", password="second"))
    await asyncio.to_thread(source.refresh)
    for number in range(2, 5):
        await pass_on(number)
    await until(lambda: before.items() & sessions_of(server, "other").items())
    await asyncio.to_thread(source.close)


async def test_who_is_not_vouched_for_is_told_nothing(
    server: RedisServer, make: Make, tls_port: int
) -> None:
    """Without the certificate of its CA the server is refused, before it has seen a login."""
    layer = make(PORT=tls_port, OPTIONS={"ssl": True})
    with pytest.raises(RedisConnectionError, match="certificate verify failed"):
        await layer.send("specific!channel", {"n": 1})
    assert await asyncio.to_thread(sessions_of, server, "app") == {}
