"""libpq on an event loop: what comes when, and what an ended connection does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from channels_pg_secrets.engines.connection import OpenedConnection
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.wire import Wire, WireLost
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.proxy import FaultProxy


@pytest.fixture
async def proxied(database: FreshDatabase) -> AsyncIterator[tuple[Wire, FaultProxy]]:
    """A wire through a proxy."""
    with FaultProxy(database.server.port) as proxy:
        params = {**database.connection_params(), "port": proxy.port}
        connection = await psycopg.AsyncConnection.connect(**params, autocommit=True)
        wire = Wire(OpenedConnection(connection, None, "", time.monotonic()))
        yield wire, proxy
        wire.close()


async def test_a_notification_right_behind_an_answer_is_heard(
    proxied: tuple[Wire, FaultProxy], database: FreshDatabase
) -> None:
    """What arrives in one read with an answer does not lie until something else arrives."""
    wire, proxy = proxied
    heard: list[bytes] = []
    wire.on_notify = heard.append
    await wire.call(statements.listen("here"))
    for number in range(20):
        proxy.hold_answers()
        answer = asyncio.ensure_future(wire.call(statements.PROBE))
        await asyncio.sleep(0.01)  # the answer is to lie in the proxy before the notification
        await asyncio.to_thread(database.execute, f"NOTIFY here, '{number}'")
        await asyncio.sleep(0.01)
        proxy.release_answers()
        time.sleep(0.02)  # noqa: ASYNC251  (the loop must find both when it reads again)
        await asyncio.wait_for(answer, 5)
        deadline = time.monotonic() + 2
        while len(heard) <= number:
            assert time.monotonic() < deadline, "the notification was left lying"
            await asyncio.sleep(0.001)
    assert heard == [str(number).encode() for number in range(20)]


async def test_requests_are_answered_in_order(proxied: tuple[Wire, FaultProxy]) -> None:
    """Many requests at once get each its own answer."""
    wire, _ = proxied
    command = [
        statements.Command(f"SELECT {n}::int".encode(), (statements.int4,)) for n in range(50)
    ]
    answers = await asyncio.gather(*(wire.call(each) for each in command))
    assert answers == [[(number,)] for number in range(50)]


async def test_a_failed_statement_leaves_the_connection_usable(
    proxied: tuple[Wire, FaultProxy],
) -> None:
    """An error of the server is that request's alone."""
    wire, _ = proxied
    with pytest.raises(psycopg.errors.DivisionByZero):
        await wire.call(statements.Command(b"SELECT 1/0"))
    assert await wire.call(statements.PROBE)


async def test_an_ended_connection_fails_all_that_wait(
    proxied: tuple[Wire, FaultProxy],
) -> None:
    """Whoever waits learns that the connection is lost, and so does whoever comes later."""
    wire, proxy = proxied
    lost: list[Exception] = []
    wire.on_lost = lost.append
    proxy.hold_answers()
    waiting = [asyncio.ensure_future(wire.call(statements.PROBE)) for _ in range(3)]
    await asyncio.sleep(0)
    proxy.reset()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [WireLost] * 3
    assert len(lost) == 1
    with pytest.raises(WireLost):
        await wire.call(statements.PROBE)


async def test_a_driver_that_cannot_send_is_no_silence(proxied: tuple[Wire, FaultProxy]) -> None:
    """An exception while sending, after preparing too, fails the call at once with its cause."""
    wire, _ = proxied
    lost: list[Exception] = []
    wire.on_lost = lost.append
    command = statements.Command(b"SELECT 1", name=b"one_too_many", formats=[1])
    with pytest.raises(WireLost, match="the driver failed with ValueError") as caught:
        await asyncio.wait_for(wire.call(command), 5)
    assert isinstance(caught.value.__cause__, ValueError)
    assert lost == [caught.value]


def test_formats_are_lists() -> None:
    """psycopg 3.2 takes no other sequence for the formats of parameters."""
    found = [value for value in vars(statements).values() if hasattr(value, "formats")]
    assert len(found) > 10
    assert all(type(value.formats) is list for value in found if not isinstance(value, type))
