"""Logins from a real Vault change while messages flow: none is lost, none comes twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pg_secrets.registry import credential_source
from pg_secrets.source import CredentialSource
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Stream

    Eventually = Callable[..., Awaitable[Any]]


@pytest.fixture
def engine(layers: Layers, openbao: OpenBaoServer) -> Iterator[DatabaseSecretsEngine]:
    """A secrets engine for the database of ``layers``."""
    with DatabaseSecretsEngine(openbao, layers.database) as made:
        yield made


def source(
    engine: DatabaseSecretsEngine, openbao: OpenBaoServer, **options: Any
) -> CredentialSource:
    """A source of its own over one role."""
    auth = {"METHOD": "token", "TOKEN": openbao.root_token}
    place = {"ADAPTER": "vault", "ADDRESS": openbao.address, "MOUNT": engine.mount}
    return credential_source({**place, "AUTH": auth, **options})


async def test_a_static_role_is_rotated_and_its_sessions_are_ended(
    layers: Layers, openbao: OpenBaoServer, engine: DatabaseSecretsEngine, stream: type[Stream]
) -> None:
    """Vault changes the password of a static role three times, each time ending all sessions."""
    login = layers.database.login()
    engine.static_role("static", login)
    credentials = source(engine, openbao, STATIC_ROLE="static")
    sender, receiver = (layers(credentials=credentials) for _ in range(2))
    channel = await receiver.new_channel()
    async with stream(sender, receiver, channel) as flow:
        for _ in range(3):
            await flow.more()
            engine.rotate_static_role("static")
            assert layers.database.terminate(login.user) >= 4
            await flow.more(50)
    assert credentials.generation >= 4
    credentials.close()


async def test_leases_end_and_are_revoked_with_their_sessions(
    layers: Layers,
    openbao: OpenBaoServer,
    engine: DatabaseSecretsEngine,
    stream: type[Stream],
    eventually: Eventually,
) -> None:
    """Leases of two seconds that cannot be prolonged: users come and go, messages stay."""
    engine.dynamic_role("short", default_ttl="2s", max_ttl="2s")
    credentials = source(engine, openbao, ROLE="short")
    sender, receiver = (layers(credentials=credentials) for _ in range(2))
    channel = await receiver.new_channel()
    async with stream(sender, receiver, channel) as flow:
        await flow.more()
        await eventually(lambda: credentials.generation >= 4)
        await flow.more(50)
    credentials.close()
