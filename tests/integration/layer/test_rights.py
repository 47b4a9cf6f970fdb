"""Who may do what in the database: the runtime role, strangers, and those without grants."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.management.grants import Grants
from channels_pg_secrets.sql import install
from pg_secrets.testing.database import FreshDatabase, Login

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]

TABLES = install.created("TABLE", "tables.sql") + install.created("VIEW", "tables.sql")
FUNCTIONS = """
    SELECT p.oid::regprocedure::text, p.proname::text FROM pg_proc p
    WHERE p.proname LIKE 'channels\\_pg\\_secrets\\_%'
"""


@pytest.fixture
def stranger(layers: Layers) -> Iterator[Login]:
    """A login that may connect to the database and has no right in it."""
    database = layers.database
    login = Login(f"{layers.prefix}_stranger", "a-password")
    database.execute(f"CREATE ROLE {login.user} LOGIN PASSWORD '{login.password}'")
    database.execute(f"GRANT CONNECT ON DATABASE {database.name} TO {login.user}")
    yield login
    database.execute(f"REVOKE ALL ON DATABASE {database.name} FROM {login.user}")
    database.terminate(login.user)
    database.execute(f"DROP ROLE {login.user}")


@pytest.fixture
async def intruder(layers: Layers, stranger: Login) -> AsyncIterator[Any]:
    """A connection of the stranger."""
    params = layers.database.connection_params(stranger)
    async with await psycopg.AsyncConnection.connect(**params, autocommit=True) as connection:
        yield connection


async def test_execute_is_all_that_the_runtime_role_needs(layers: Layers, soon: Soon) -> None:
    """A login with EXECUTE on the granted functions and no other right can do everything."""
    query = "SELECT bool_or(has_table_privilege(%s, name, %s)) FROM unnest(%s::text[]) AS t (name)"
    any_right = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    arguments = (layers.login.user, any_right, TABLES)
    assert len(TABLES) > 5
    assert layers.database.execute(query, arguments) == [(False,)]
    here, there = layers(), layers()
    channel = await there.new_channel()
    large = {"type": "test", "text": "x" * 100_000}
    await there.group_add("group", channel)
    await here.group_add("group", "member")
    await here.group_send("group", large)
    await here.send(channel, {"type": "test"})
    await here.send("normal", large)
    assert await soon(there, channel) == await soon(here, "member") == large
    assert await soon(there, channel) == {"type": "test"}
    assert await soon(there, "normal") == large
    await there.group_discard("group", channel)
    await here.group_discard("group", "member")
    await here.flush()


@pytest.mark.parametrize("table", TABLES)
async def test_the_runtime_role_reads_no_table(layers: Layers, table: str) -> None:
    """Not even the runtime role can read the node table's secrets, or any other table."""
    params = layers.database.connection_params(layers.login)
    async with await psycopg.AsyncConnection.connect(**params) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(f"SELECT * FROM {table}".encode())


async def test_strangers_may_call_nothing_and_read_nothing(
    layers: Layers, intruder: psycopg.AsyncConnection[Any], stranger: Login
) -> None:
    """Another role of the same database has EXECUTE on no function and SELECT on no table."""
    functions = layers.database.execute(FUNCTIONS)
    assert len(functions) > 15
    cursor = await intruder.execute(
        "SELECT f FROM unnest(%s::text[]) AS t (f) WHERE has_function_privilege(f, 'EXECUTE')",
        ([signature for signature, _ in functions],),
    )
    assert await cursor.fetchall() == []
    for table in TABLES:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await intruder.execute(f"SELECT * FROM {table}".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await intruder.execute("SELECT channels_pg_secrets_send_v1('a', '{}')")


async def test_internals_are_not_for_the_runtime_role(layers: Layers) -> None:
    """Functions that the layer does not call by itself cannot be called with its login."""
    grants = Grants("owner", "role", "database", "public").after_migrate()
    granted = {statement.split('"')[3] for statement in grants}
    query = "SELECT has_function_privilege(%s, %s, 'EXECUTE')"
    for signature, name in layers.database.execute(FUNCTIONS):
        allowed = layers.database.execute(query, (layers.login.user, signature))[0][0]
        assert allowed == (name in granted), signature


async def test_no_function_can_be_led_astray(layers: Layers) -> None:
    """Every SECURITY DEFINER function looks names up where nobody else may create any."""
    query = """
        SELECT proname::text, proconfig FROM pg_proc
        WHERE prosecdef AND proname LIKE 'channels\\_pg\\_secrets\\_%'
    """
    rows = layers.database.execute(query)
    assert rows
    for name, settings in rows:
        paths = [setting for setting in settings or [] if setting.startswith("search_path=")]
        assert paths, name
        assert paths[0] == "search_path=pg_catalog, pg_temp", name


async def test_forged_notifications_are_skipped(
    layers: Layers,
    intruder: psycopg.AsyncConnection[Any],
    soon: Soon,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A NOTIFY on the right channel without the key delivers nothing, and is logged once."""
    here, there = layers(), layers()
    channel = await there.new_channel()
    query = "SELECT channel FROM channels_pg_secrets_node WHERE to_hex(id) = ltrim(%s, '0')"
    notify_channel = layers.database.execute(query, (there.stats()["node"],))[0][0]
    await eventually(lambda: "listener" in there.stats()["connected"])
    sender = here.stats()["node"]
    forged = [
        "",
        "x",
        "\u00e4" * 30,
        "x" * 7999,
        f"{'A' * 20}{sender} ffff c{channel} gaR0eXBlpmZvcmdlZA==",
        f"{'A' * 20}0 0 f999999",
        f"{sender} 1 w",
    ]
    for payload in forged:
        await intruder.execute("SELECT pg_notify(%s, %s)", (notify_channel, payload))
    await here.send(channel, {"type": "genuine"})
    assert await soon(there, channel) == {"type": "genuine"}
    told = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told if "not ours" in record.getMessage()]
    assert len(told) == 1


async def test_a_recorded_notification_cannot_be_played_again(
    layers: Layers, soon: Soon, intruder: psycopg.AsyncConnection[Any]
) -> None:
    """Genuine notifications that are sent a second time deliver nothing twice."""
    here, there = layers(), layers()
    channel = await there.new_channel()
    await there.group_add("group", channel)
    query = "SELECT channel FROM channels_pg_secrets_node WHERE to_hex(id) = ltrim(%s, '0')"
    notify_channel = layers.database.execute(query, (there.stats()["node"],))[0][0]
    await intruder.execute(f'LISTEN "{notify_channel}"'.encode())
    await here.send(channel, {"type": "test", "n": 1})
    await here.group_send("group", {"type": "test", "n": 2})
    await here.flush()
    payloads = [notify.payload async for notify in intruder.notifies(timeout=5, stop_after=3)]
    assert len(payloads) == 3
    await there.group_add("group", channel)
    await here.send(channel, {"type": "test", "n": 3})
    for payload in payloads:
        await intruder.execute("SELECT pg_notify(%s, %s)", (notify_channel, payload))
    await here.group_send("group", {"type": "test", "n": 4})
    assert [(await soon(there, channel))["n"] for _ in range(2)] == [3, 4]


# What to say when something is missing ----------------------------------------------------


async def test_missing_tables_are_named(database: FreshDatabase) -> None:
    """Without the migration every call fails at once with an error that says what to run."""
    from channels_pg_secrets.engines import PostgresEngine

    layer = PostgresEngine(database.settings(database.owner)).channel_layer()
    try:
        for call in (
            layer.new_channel(),
            layer.send("normal", {"type": "test"}),
            layer.group_send("group", {"type": "test"}),
            layer.group_add("group", "normal"),
            layer.flush(),
        ):
            started = time.monotonic()
            with pytest.raises(ChannelLayerUnavailable, match="migrate channels_pg_secrets"):
                await call
            assert time.monotonic() - started < 5
    finally:
        await layer.close()


async def test_a_layer_comes_to_life_when_the_tables_are_there(
    database: FreshDatabase, soon: Soon, eventually: Eventually
) -> None:
    """A process that was started before the migration works as soon as that has run."""
    from channels_pg_secrets.engines import PostgresEngine

    layer = PostgresEngine(database.settings(database.owner)).channel_layer()
    try:
        with pytest.raises(ChannelLayerUnavailable):
            await layer.new_channel()
        params = database.connection_params()
        async with await psycopg.AsyncConnection.connect(**params, autocommit=True) as owner:
            for name in ("tables.sql", "internals_v1.sql", "functions_v1.sql"):
                await owner.execute(install.read(name).replace("@schema@", "public").encode())

        async def channel() -> str | None:
            try:
                return str(await layer.new_channel())
            except ChannelLayerUnavailable:
                return None

        name = await eventually(channel)
        await layer.send(name, {"type": "test"})
        assert await soon(layer, name) == {"type": "test"}
    finally:
        await layer.close()


async def test_missing_grants_are_named(layers: Layers, stranger: Login) -> None:
    """A login without EXECUTE gets an error that names the command which prints the grants."""
    layer = layers(login=stranger)
    for call in (layer.new_channel(), layer.send("normal", {"type": "test"})):
        started = time.monotonic()
        with pytest.raises(ChannelLayerUnavailable, match="channels_pg_secrets grants"):
            await call
        assert time.monotonic() - started < 5


async def test_rights_that_come_back(
    own_layers: Layers, soon: Soon, eventually: Eventually
) -> None:
    """A layer whose rights are revoked under it goes on when it has them again."""
    layers, database = own_layers, own_layers.database
    here, there = layers(), layers()
    channel = await there.new_channel()
    await here.send(channel, {"type": "before"})
    assert await soon(there, channel) == {"type": "before"}
    grants = Grants(database.owner.user, database.runtime, database.name, "public")
    for statement in grants.after_migrate():
        revoke = statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM ")
        database.execute(revoke)
    sending = asyncio.create_task(here.send(channel, {"type": "meanwhile"}))
    await eventually(lambda: "publisher" not in here.stats()["connected"])
    for statement in grants.after_migrate():
        database.execute(statement)
    await asyncio.gather(sending, return_exceptions=True)

    async def sent() -> bool:
        try:
            await here.send(channel, {"type": "after"})
        except ChannelLayerUnavailable:
            return False
        return True

    await eventually(sent)
    while (await soon(there, channel))["type"] != "after":
        pass


async def test_rights_that_are_gone_for_a_moment_cost_no_message(
    layers: Layers, eventually: Eventually, soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that is dropped loses them just before the next login comes: senders wait for that."""
    database = layers.database
    sender, receiver = layers(), layers()
    channel = await receiver.new_channel()
    await sender.send(channel, {"type": "test", "n": 0})
    assert await soon(receiver, channel) == {"type": "test", "n": 0}
    database.execute(f'REVOKE "{database.runtime}" FROM "{layers.login.user}"')
    try:
        database.execute(f'GRANT CONNECT ON DATABASE {database.name} TO "{layers.login.user}"')
        database.terminate(layers.login.user)
        sending = asyncio.ensure_future(sender.send(channel, {"type": "test", "n": 1}))
        await eventually(
            lambda: "publisher cannot connect: The layer's database role" in caplog.text
        )
        assert not sending.done()
    finally:
        database.execute(f'GRANT "{database.runtime}" TO "{layers.login.user}"')
    await asyncio.wait_for(sending, 10)
    assert await soon(receiver, channel) == {"type": "test", "n": 1}
