"""A project that uses the public names, as test_typing checks it outside the repo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from channels_pg_secrets import ChannelLayer, ChannelLayerUnavailable, __version__
from channels_pg_secrets.engines import (
    Engine,
    MemoryEngine,
    PostgresEngine,
    engine_names,
    find_engine,
    register_engine,
)
from channels_pg_secrets.errors import LayerMisconfigured
from pg_secrets import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialAdapter,
    CredentialEvent,
    Credentials,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialSource,
    CredentialsUnavailable,
    Lease,
    LoginRejected,
    aconnect,
    connect,
    credential_source,
    pool_kwargs,
    register_adapter,
)
from pg_secrets.testing.contract import CredentialAdapterContract


@register_adapter("memo")
class MemoAdapter(CredentialAdapter):
    """Everything an adapter may do."""

    name = "memo"
    ttl = 60.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MemoAdapter:
        return cls()

    def fetch(self) -> Credentials:
        return Credentials(user="app", password="secret", lease=Lease("id", 60.0, renewable=True))

    def renew(self, credentials: Credentials) -> Credentials | None:
        return credentials.replace(expires_at=1.0)

    def revoke(self, credentials: Credentials) -> None: ...

    def changed(self, credentials: Credentials) -> bool | None:
        return None

    def close(self) -> None: ...


class TestMemo(CredentialAdapterContract):
    """The contract suite is typed as well."""

    def make_adapter(self) -> MemoAdapter:
        return MemoAdapter()

    def expected(self) -> dict[str, str]:
        return {"user": "app"}


@register_engine("own")
class OwnEngine(PostgresEngine):
    """Every override point."""

    settings = frozenset({"OWN"})

    def connection_params(self) -> dict[str, Any]:
        return {**super().connection_params(), "application_name": "own"}

    async def configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await super().configure(connection)

    async def connect(self, **params: Any) -> psycopg.AsyncConnection[Any]:
        return await super().connect(**params)

    def serialize(self, message: dict[str, Any]) -> bytes:
        return super().serialize(message)

    def deserialize(self, data: bytes) -> dict[str, Any]:
        return super().deserialize(data)


class WrappingEngine(Engine):
    """An engine from the base class."""

    def channel_layer(self, **options: Any) -> Any:
        return MemoryEngine({}).channel_layer(**options)


def heard(event: CredentialEvent) -> None:
    """A listener."""
    number: int = event.generation
    kind: str = event.kind
    error: CredentialsError | None = event.error
    print(number, kind, error, __version__)


def ask() -> str | None:
    """The source and synchronous connections."""
    source: CredentialSource = credential_source({"ADAPTER": "memo", "TTL": 30})
    unsubscribe = source.subscribe(heard)
    try:
        credentials = source.get(timeout=1.0)
        with source.hold(credentials), connect(source, dbname="app") as connection:
            connection.execute("SELECT 1")
        with ConnectionPool(**pool_kwargs(source, dbname="app"), open=False) as pool:
            print(pool.name)
    except LoginRejected as error:
        print(error.retry_after, error.sqlstate)
    except CredentialsUnavailable:
        print("later")
    except (CredentialsDenied, CredentialsNotFound, CredentialsInvalid):
        print("by hand")
    except (AdapterMisconfigured, AdapterNotInstalled, LayerMisconfigured):
        print("settings")
    finally:
        unsubscribe()
        source.close()
    return source.get().user


async def talk() -> dict[str, Any]:
    """The layer and asynchronous connections."""
    connection: psycopg.AsyncConnection[Any] = await aconnect("memo", dbname="app")
    await connection.close()
    layer = ChannelLayer(ENGINE="own", NAME="app", expiry=30)
    try:
        await layer.send("work", {"type": "job"})
    except ChannelLayerUnavailable as error:
        print(error)
    message: dict[str, Any] = await layer.receive("work")
    print(engine_names(), find_engine("own").is_layer)
    return message


if __name__ == "__main__":
    print(ask(), asyncio.run(talk()))
