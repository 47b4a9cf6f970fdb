"""Faults of the credentials, and of the store that they come from, under load."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pg_secrets.testing.database import Login
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.process import frozen
from pg_secrets.testing.proxy import FaultProxy
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from tests.chaos.load import Limits

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

#: Seconds that a fault of the store lasts.
LASTS = 0.7
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

    await chaos.suffer("rotation every second", strike, chaos.times(), config=secret.config(chaos))


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
    """A Vault of our own, to be sealed and stopped."""
    with OpenBaoServer() as server:
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


def vault_config(
    chaos: Chaos, engine: DatabaseSecretsEngine, role: str, **options: Any
) -> Callable[[str], dict[str, Any]]:
    """Return ``CONFIG`` for layers whose logins are leased."""
    credentials: dict[str, Any] = {"ADAPTER": "vault", "MOUNT": engine.mount, "ROLE": role}
    credentials["ADDRESS"] = engine.openbao.address
    auth = {"METHOD": "token", "TOKEN": engine.token()}
    credentials |= {"AUTH": auth, **options}
    return lambda _name: chaos.config(credentials)


@pytest.mark.long_form
async def test_leases_are_revoked(chaos: Chaos, secrets_engine: DatabaseSecretsEngine) -> None:
    """All leases are revoked: the sessions end with them, and the roles are gone."""

    async def strike() -> None:
        await asyncio.to_thread(secrets_engine.revoke_leases, "lasting")

    config = vault_config(chaos, secrets_engine, "lasting")
    await chaos.suffer("leases revoked", strike, chaos.times(), config=config)


@asynccontextmanager
async def sealed(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    await asyncio.to_thread(engine.openbao.seal)
    yield
    await asyncio.to_thread(engine.openbao.unseal)


@asynccontextmanager
async def stopped(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    with frozen(engine.openbao.pid):
        yield


@asynccontextmanager
async def slow(_engine: DatabaseSecretsEngine, proxy: FaultProxy) -> AsyncIterator[None]:
    proxy.latency = 0.5
    yield
    proxy.latency = 0.0


@asynccontextmanager
async def denying(engine: DatabaseSecretsEngine, _proxy: FaultProxy) -> AsyncIterator[None]:
    policies = engine.client.sys.list_policies()["data"]["policies"]
    (name,) = [name for name in policies if name.startswith(engine.mount)]
    rules = engine.client.sys.read_policy(name)["data"]["rules"]
    engine.client.sys.create_or_update_policy(name, 'path "none" { capabilities = ["deny"] }')
    yield
    engine.client.sys.create_or_update_policy(name, rules)


@pytest.mark.parametrize("trouble", [sealed, stopped, slow, denying])
@pytest.mark.long_form
async def test_vault_is_in_trouble(
    chaos: Chaos, secrets_engine: DatabaseSecretsEngine, trouble: Any
) -> None:
    """While the store gives nothing, ended sessions come again with the login that is there."""
    with FaultProxy(secrets_engine.openbao.port) as proxy:
        address = f"http://127.0.0.1:{proxy.port}"
        config = vault_config(chaos, secrets_engine, "short", ADDRESS=address)
        users = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'v-%'"

        async def strike() -> None:
            async with trouble(secrets_engine, proxy):
                await asyncio.sleep(LASTS / 2)
                chaos.database.execute(users)
                await asyncio.sleep(LASTS / 2)

        await chaos.suffer(
            f"Vault {trouble.__name__}",
            strike,
            chaos.times(),
            config=config,
            # Beside the fault's own lines those of one rotation after the other.
            limits=Limits(lines=16),
        )


@pytest.mark.long_form
async def test_the_clock_is_set(chaos: Chaos, secrets_engine: DatabaseSecretsEngine) -> None:
    """The wall clock of a process jumps by two hours, beyond its lease's end, and back again."""
    config = vault_config(chaos, secrets_engine, "lasting")
    steps = [7200.0, 0.0, -7200.0, 0.0]
    async with chaos.load("wall clock set by 2 h", config) as load:

        async def strike() -> None:
            step = steps[load.strikes % len(steps)]
            for name in load.members:
                await load("step_clock", name, step)

        await load.strike(strike, chaos.times(short=2))
