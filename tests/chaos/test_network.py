"""Faults between the processes and the database under load."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from channels_pg_secrets.layer.supervisor import ANSWER_TIMEOUT, HEARTBEAT
from pg_secrets.testing.proxy import FaultProxy
from tests.chaos.load import Limits
from tests.chaos.servers import PgBouncer

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

#: Seconds that a fault lasts which has an end of its own.
LASTS = 0.7


@pytest.fixture
def proxies(chaos: Chaos) -> Iterator[dict[str, FaultProxy]]:
    """Between each process and the server, one for each."""
    with contextlib.ExitStack() as stack:
        port = chaos.database.server.port
        yield {name: stack.enter_context(FaultProxy(port)) for name in "abc"}


def behind(chaos: Chaos, proxy: FaultProxy) -> Callable[[str], dict[str, Any]]:
    """Return ``CONFIG`` for layers whose way to the server is the proxy."""
    return lambda _name: chaos.config(PORT=proxy.port)


async def test_connections_are_reset(chaos: Chaos, proxy: FaultProxy) -> None:
    """All connections end with a TCP reset, of which the server does not hear."""

    async def strike() -> None:
        assert proxy.reset() >= 6

    config = behind(chaos, proxy)
    await chaos.suffer("TCP reset", strike, chaos.times(), config=config, limits=Limits(lines=5))


async def test_the_network_freezes(chaos: Chaos, proxy: FaultProxy) -> None:
    """Nothing passes for a while, and nobody is told; then everything passes."""

    async def strike() -> None:
        proxy.hold()
        await asyncio.sleep(LASTS)
        proxy.release()

    config = behind(chaos, proxy)
    limits = Limits(lines=1, least_gap=0.8 * LASTS)
    await chaos.suffer("freeze", strike, chaos.times(), config=config, limits=limits)


@pytest.mark.long_form
async def test_the_network_freezes_for_too_long(chaos: Chaos, proxy: FaultProxy) -> None:
    """What was held up arrives after it was sent again by another connection: a ghost."""
    fault, limits = "freeze for longer than answers are waited for", Limits(gap=5.0)
    config = behind(chaos, proxy)
    async with chaos.load(fault, config, limits=limits, patience=1.0) as load:

        async def strike() -> None:
            proxy.hold_open()
            # By then all processes have new connections, and their batches in doubt went by these.
            await load.flowing()
            proxy.release()

        await load.strike(strike, chaos.times())


async def test_answers_are_lost(chaos: Chaos, proxy: FaultProxy) -> None:
    """What was sent is carried out, but the connection ends before anybody is told."""

    async def strike() -> None:
        proxy.hold_answers()
        await asyncio.sleep(LASTS / 2)
        assert proxy.reset() >= 6
        proxy.release_answers()

    config = behind(chaos, proxy)
    await chaos.suffer("answers lost", strike, chaos.times(), config=config)


async def test_connections_are_refused(chaos: Chaos, proxy: FaultProxy) -> None:
    """All connections are reset, and no new ones taken for a while."""

    async def strike() -> None:
        proxy.refuse()
        assert proxy.reset() >= 6
        await asyncio.sleep(LASTS)
        proxy.admit()

    config = behind(chaos, proxy)
    await chaos.suffer("refusal", strike, chaos.times(), config=config, limits=Limits(lines=6))


@pytest.mark.long_form
async def test_everything_is_late(chaos: Chaos, proxy: FaultProxy) -> None:
    """For a while everything takes 200 ms, in each direction."""

    async def strike() -> None:
        proxy.latency = 0.2
        await asyncio.sleep(2 * LASTS)
        proxy.latency = 0.0

    config, limits = behind(chaos, proxy), Limits(lines=1, least_gap=0.2)
    await chaos.suffer("latency of 200 ms", strike, chaos.times(), config=config, limits=limits)


@pytest.mark.parametrize(
    "patience",
    [pytest.param(ANSWER_TIMEOUT, marks=pytest.mark.long_form), 1.0],
    ids=lambda seconds: f"{seconds:g} s",
)
async def test_a_black_hole(chaos: Chaos, proxies: dict[str, FaultProxy], patience: float) -> None:
    """Connections are silent for ever, and new ones for a while: they are given up in time.

    ``patience`` is the layer's own, or a shorter one, with which it strikes more often.
    """

    async def strike() -> None:
        # A listener on which nothing arrives learns by its probe that it is lost, after others.
        until = time.monotonic() + ANSWER_TIMEOUT + 2 * HEARTBEAT
        while any(proxy.taken < 2 for proxy in proxies.values()):
            assert time.monotonic() < until, "a process has not found all its connections lost"
            await asyncio.sleep(0.05)
        for proxy in proxies.values():
            assert proxy.swallow() >= 2
        await asyncio.sleep(LASTS)
        for proxy in proxies.values():
            proxy.spit()

    def config(name: str) -> dict[str, Any]:
        return chaos.config(PORT=proxies[name].port, send_timeout=30)

    resume = 1.5 * patience + 2
    await chaos.suffer(
        f"black hole, answers waited for {patience:g} s",
        strike,
        chaos.times(long=7 if patience == ANSWER_TIMEOUT else 20),
        config=config,
        limits=Limits(resume=resume, gap=resume + LASTS),
        patience=patience,
    )


@pytest.mark.long_form
async def test_pgbouncer_is_restarted(chaos: Chaos) -> None:
    """PgBouncer, in session mode for LISTEN and in transaction mode for the rest, is restarted."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("needs pgbouncer on the path")
    with PgBouncer(chaos.database, chaos.place.login) as bouncer:
        config = chaos.config(
            PORT=bouncer.port,
            OPTIONS={"prepare_threshold": None},
            LISTEN={"NAME": bouncer.session},
        )

        async def strike() -> None:
            await asyncio.to_thread(bouncer.restart)

        await chaos.suffer(
            "PgBouncer restarted", strike, chaos.times(), config=lambda _name: config
        )


@pytest.mark.long_form
async def test_too_many_connections(chaos: Chaos) -> None:
    """While sessions are ended, others take all places; after a while they leave."""
    database, user = chaos.database, chaos.place.login.user
    database.execute(f"ALTER ROLE {user} CONNECTION LIMIT 8")

    async def strike() -> None:
        # The role's own limit: the server's would keep the test out as well.
        database.execute(f"ALTER ROLE {user} CONNECTION LIMIT 0")
        assert database.terminate(user) >= 6
        await asyncio.sleep(LASTS)
        database.execute(f"ALTER ROLE {user} CONNECTION LIMIT 8")

    await chaos.suffer("too many connections", strike, chaos.times())


async def test_the_server_is_read_only(chaos: Chaos) -> None:
    """For a while all transactions are read-only, as on a standby."""
    database, user = chaos.database, chaos.place.login.user

    async def strike() -> None:
        database.execute(f"ALTER ROLE {user} SET default_transaction_read_only = on")
        assert database.terminate(user) >= 6
        await asyncio.sleep(LASTS)
        database.execute(f"ALTER ROLE {user} RESET default_transaction_read_only")

    await chaos.suffer("read-only server", strike, chaos.times())
