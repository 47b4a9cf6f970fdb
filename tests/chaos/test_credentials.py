"""Faults of the credentials, and of the store that they come from, under load."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pg_secrets.testing import process
from pg_secrets.testing.database import Login
from pg_secrets.testing.openbao import LastingOpenBaoServer, OpenBaoServer
from pg_secrets.testing.proxy import FaultProxy
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from tests.chaos.load import Limits, Load

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

#: Seconds that a fault of the store lasts where it strikes again and again, and where once.
LASTS = 0.7
OUTAGE = 60.0
#: Seconds between a change in the database and the same change in the store.
LAG = 5.0


class SecretFile:
    """A mounted secret that all processes read their login from."""

    def __init__(self, path: Path, login: Login) -> None:
        self.path = path
        self.put(login)

    def put(self, login: Login) -> None:
        """Have the file say so, all at once."""
        new = self.path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps({"username": login.user, "password": login.password}))
        new.replace(self.path)

    def config(self, chaos: Chaos) -> Callable[[str], dict[str, Any]]:
        """Return ``CONFIG`` for layers that follow the file."""
        credentials = {"ADAPTER": "files", "PATH": str(self.path), "TTL": 1}
        return lambda _name: chaos.config(credentials)


@pytest.fixture
def secret(chaos: Chaos, tmp_path: Path) -> SecretFile:
    """Holds the login of the run."""
    return SecretFile(tmp_path / "login.json", chaos.place.login)


async def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < until, "what was waited for did not happen"
        await asyncio.sleep(0.02)


async def test_another_user_every_second(chaos: Chaos, secret: SecretFile) -> None:
    """The login changes as fast as sources look; the user before is dropped when it has left."""
    logins = [chaos.place.login]

    async def strike() -> None:
        before, login = logins[-1], chaos.database.login()
        logins.append(login)
        secret.put(login)
        await _until(lambda: chaos.place.backends(before.user) == 0)
        chaos.database.execute(f'DROP ROLE "{before.user}"')

    # Nobody should notice, and no connection ends before the next one serves.
    limits, config = replace(chaos.unnoticed, lines=4), secret.config(chaos)
    async with chaos.load("rotation every second", config, limits=limits) as load:
        await load.strike(strike, chaos.times())
        for name in load.members:
            stats = (await load("usage", name))["stats"]
            assert stats["disconnects"] == 0
            assert stats["hand_overs"] >= 2 * chaos.times()


@pytest.mark.long_form
async def test_the_password_changes_before_the_store_knows(
    chaos: Chaos, secret: SecretFile
) -> None:
    """The database has another password, and ends all sessions, before the store has it."""
    database, user = chaos.database, chaos.place.login.user

    async def strike() -> None:
        changed = database.set_password(user)
        assert database.terminate(user) >= 6
        await asyncio.sleep(LAG)
        secret.put(changed)

    # The file is looked at once a second, and read at most once a second.
    limits = Limits(resume=3.0, gap=LAG + 3.0)
    fault = f"password changed {LAG:g} s before the store"
    config = secret.config(chaos)
    await chaos.suffer(fault, strike, chaos.times(), config=config, limits=limits)


@pytest.mark.long_form
async def test_the_store_knows_before_the_password_changes(
    chaos: Chaos, secret: SecretFile
) -> None:
    """The store has another password before the database, and all sessions end in between."""
    database, user = chaos.database, chaos.place.login.user

    async def strike() -> None:
        changed = Login(user, f"password-{time.monotonic()}")
        secret.put(changed)
        # The sessions that are open serve on, while all sources find the new password.
        await asyncio.sleep(LAG / 3)
        assert database.terminate(user) >= 6
        await asyncio.sleep(2 * LAG / 3)
        assert chaos.place.backends(user) == 0
        database.set_password(user, changed.password)

    # A login that was refused is left alone for up to five seconds, so that nobody locks it out.
    limits = Limits(resume=6.0, gap=2 * LAG / 3 + 6.0)
    fault = f"password changed {LAG:g} s after the store"
    config = secret.config(chaos)
    await chaos.suffer(fault, strike, chaos.times(), config=config, limits=limits)


async def test_the_role_is_dropped_under_its_sessions(chaos: Chaos, secret: SecretFile) -> None:
    """The role is dropped while its sessions are open, and the store has another a moment later."""
    logins = [chaos.place.login]

    async def strike() -> None:
        before, login = logins[-1], chaos.database.login()
        logins.append(login)
        chaos.database.execute(f'DROP ROLE "{before.user}"')
        await asyncio.sleep(0.3)
        secret.put(login)

    await chaos.suffer(
        "role dropped under its sessions", strike, chaos.times(), config=secret.config(chaos)
    )


# Vault ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vault() -> Iterator[OpenBaoServer]:
    """A Vault of our own, to be sealed and frozen."""
    with OpenBaoServer() as server:
        yield server


@pytest.fixture(scope="module")
def lasting_vault() -> Iterator[LastingOpenBaoServer]:
    """A Vault that can also be stopped; to start it takes longer."""
    with LastingOpenBaoServer() as server:
        yield server


@pytest.fixture
def secrets_engine(chaos: Chaos, vault: OpenBaoServer) -> Iterator[DatabaseSecretsEngine]:
    """Makes logins whose leases end within a run, so that it is asked for others meanwhile."""
    with DatabaseSecretsEngine(vault, chaos.database) as engine:
        engine.dynamic_role("lasting")
        # Not shorter: where the store is away for half of the time, a login could end before the
        # source, which asks less and less often, has another.
        engine.dynamic_role("short", default_ttl="30s", max_ttl="30s")
        yield engine


@pytest.fixture
def lasting_engine(
    chaos: Chaos, lasting_vault: LastingOpenBaoServer
) -> Iterator[DatabaseSecretsEngine]:
    """Makes logins that outlast an outage, but not by so much that nobody asks meanwhile."""
    with DatabaseSecretsEngine(lasting_vault, chaos.database) as engine:
        # Sources ask for another login after 54 s, when the outage has not ended yet.
        engine.dynamic_role("short", default_ttl="80s", max_ttl="80s")
        yield engine


def vault_config(
    chaos: Chaos, engine: DatabaseSecretsEngine, role: str, **options: Any
) -> Callable[[str], dict[str, Any]]:
    """Return ``CONFIG`` for layers whose logins are leased."""
    credentials: dict[str, Any] = {"ADAPTER": "vault", "MOUNT": engine.mount, "ROLE": role}
    credentials["ADDRESS"] = engine.openbao.address
    auth = {"METHOD": "token", "TOKEN": engine.token()}
    credentials |= {"AUTH": auth, **options}
    return lambda _name: chaos.config(credentials)


async def test_leases_are_revoked(chaos: Chaos, secrets_engine: DatabaseSecretsEngine) -> None:
    """All leases are revoked: the sessions end with them, and the roles are gone."""

    async def strike() -> None:
        before = sessions.users()
        await asyncio.to_thread(secrets_engine.revoke_leases, "lasting")
        await _until(lambda: not before & sessions.users())

    sessions = LeasedSessions(chaos)
    config = vault_config(chaos, secrets_engine, "lasting")
    await chaos.suffer("leases revoked", strike, chaos.times(), config=config)


@asynccontextmanager
async def sealed(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    await asyncio.to_thread(engine.openbao.seal)
    try:
        yield
    finally:
        await asyncio.to_thread(engine.openbao.unseal)


@asynccontextmanager
async def frozen(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    """Its process is stopped by SIGSTOP: it takes connections, and answers nothing."""
    with process.frozen(engine.openbao.pid):
        yield


@asynccontextmanager
async def down(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    """Its process has ended: it refuses connections."""
    assert isinstance(engine.openbao, LastingOpenBaoServer)
    with engine.openbao.down():
        yield


@asynccontextmanager
async def slow(_engine: DatabaseSecretsEngine, proxy: FaultProxy) -> AsyncIterator[None]:
    with taking(proxy, 0.5):
        yield


@asynccontextmanager
async def too_slow(_engine: DatabaseSecretsEngine, proxy: FaultProxy) -> AsyncIterator[None]:
    """It answers when the adapter, which waits for five seconds, has given it up."""
    with taking(proxy, 6.0):
        yield


@contextmanager
def taking(proxy: FaultProxy, seconds: float) -> Iterator[None]:
    """Have everything take so long, in each direction."""
    proxy.latency = seconds
    try:
        yield
    finally:
        proxy.latency = 0.0


@asynccontextmanager
async def denying(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    policies = engine.client.sys.list_policies()["data"]["policies"]
    (name,) = [name for name in policies if name.startswith(engine.mount)]
    rules = engine.client.sys.read_policy(name)["data"]["rules"]
    engine.client.sys.create_or_update_policy(name, 'path "none" { capabilities = ["deny"] }')
    try:
        yield
    finally:
        engine.client.sys.create_or_update_policy(name, rules)


class LeasedSessions:
    """The sessions of all logins that a Vault made."""

    _OURS = "FROM pg_stat_activity WHERE usename LIKE 'v-%' AND datname = current_database()"

    def __init__(self, chaos: Chaos) -> None:
        self._database = chaos.database

    def users(self) -> set[str]:
        """Return who has sessions."""
        return {str(user) for (user,) in self._database.execute(f"SELECT usename {self._OURS}")}

    def terminate(self) -> None:
        """End them: all processes have both theirs."""
        ended = self._database.execute(f"SELECT pg_terminate_backend(pid) {self._OURS}")
        assert len(ended) >= 6


async def suffer_trouble(chaos: Chaos, engine: DatabaseSecretsEngine, trouble: Any) -> None:
    """Let the store be in trouble for a moment, again and again."""
    with FaultProxy(engine.openbao.port) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        config = vault_config(chaos, engine, "short", ADDRESS=address)
        sessions = LeasedSessions(chaos)
        # Beside the fault's own lines those of one rotation after the other.
        limits = Limits(lines=16)
        async with chaos.load(f"Vault {trouble.__name__}", config, limits=limits) as load:

            async def strike() -> None:
                async with trouble(engine, proxy):
                    for name in load.members:
                        await load("ask_the_store", name)
                    await asyncio.sleep(LASTS / 2)
                    sessions.terminate()
                    await asyncio.sleep(LASTS / 2)
                for name in load.members:
                    await asked_in_vain(load, name)

            await load.strike(strike, chaos.times())


async def asked_in_vain(load: Load, name: str) -> None:
    """See that a process asked the store in each trouble there was, and got no answer then."""
    until = time.monotonic() + 20.0
    while len(asked := await load("asked", name)) <= load.strikes:
        assert time.monotonic() < until, f"{name} did not ask"
        await asyncio.sleep(0.02)
    seconds, error = asked[-1]
    assert error or seconds > LASTS / 2, "the store answered as if there was no trouble"


@pytest.mark.parametrize(
    "trouble",
    [
        sealed,
        *(pytest.param(each, marks=pytest.mark.long_form) for each in (frozen, slow, denying)),
    ],
)
async def test_vault_is_in_trouble(
    chaos: Chaos, secrets_engine: DatabaseSecretsEngine, trouble: Any
) -> None:
    """While the store gives nothing, ended sessions come again with the login that is there."""
    await suffer_trouble(chaos, secrets_engine, trouble)


@pytest.mark.long_form
async def test_vault_is_stopped(chaos: Chaos, lasting_engine: DatabaseSecretsEngine) -> None:
    """The same where its process ends, and another one goes on with its data."""
    # It is away for most of the time, which only leases that outlast the run put up with.
    await suffer_trouble(chaos, lasting_engine, down)


@pytest.mark.parametrize("trouble", [sealed, frozen, down, slow, too_slow, denying])
@pytest.mark.long_form
async def test_vault_is_in_trouble_for_a_minute(
    chaos: Chaos, lasting_engine: DatabaseSecretsEngine, trouble: Any
) -> None:
    """In one long outage sessions end again and again; afterwards the store gives new logins."""
    sessions = LeasedSessions(chaos)
    fault = f"Vault {trouble.__name__.replace('_', ' ')} for {OUTAGE:g} s"
    with FaultProxy(lasting_engine.openbao.port) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        config = vault_config(chaos, lasting_engine, "short", ADDRESS=address)
        async with chaos.load(fault, config) as load:
            times, users = chaos.times(), sessions.users()

            async def strike() -> None:
                moment = began + OUTAGE * (load.strikes + 1) / times
                await asyncio.sleep(max(0.0, moment - time.monotonic()))
                sessions.terminate()

            async with trouble(lasting_engine, proxy):
                # Whoever asks from now on has to connect.
                proxy.reset()
                began = time.monotonic()
                await load.strike(strike, times)
                # What a process that is gone refuses is not counted.
                assert proxy.taken or trouble is down, "nobody asked meanwhile"
            await _until(lambda: not users & sessions.users(), seconds=40.0)


@pytest.mark.long_form
async def test_the_clock_is_set(chaos: Chaos, secrets_engine: DatabaseSecretsEngine) -> None:
    """The wall clock of a process jumps beyond its lease's end, and back again; sessions end."""
    config, sessions = vault_config(chaos, secrets_engine, "lasting"), LeasedSessions(chaos)
    async with chaos.load("wall clock set by hours", config) as load:

        async def strike() -> None:
            # Further each time: a login that was made at two o'clock is good at two o'clock.
            far = 7200.0 * (1 + load.strikes // 4)
            step = [far, 0.0, -7200.0, 0.0][load.strikes % 4]
            for name in load.members:
                await load("step_clock", name, step)
            before = sessions.users()
            sessions.terminate()
            await load.whole()
            # Whoever has to log in looks at the clock, by which the lease has ended.
            assert step != far or not before & sessions.users()

        await load.strike(strike, chaos.times(short=2))
