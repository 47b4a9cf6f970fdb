"""Processes of one host that share a lease of a real Vault: the option SHARED."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hvac.exceptions import InvalidPath

from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine

AppRole = Callable[..., dict[str, Any]]

PEER = """
import json, sys
from pg_secrets import credential_source

source = credential_source(json.loads(sys.argv[1]))

def shown(found):
    return [found and found.user, found and found.expires_at]

for line in sys.stdin:
    match line.strip():
        case "get":
            answer = shown(source.get())
        case "renew":
            answer = shown(source.adapter.renew(source.get()))
        case "refresh":
            answer = shown(source.refresh())
        case "close":
            source.close()
            answer = [source.stats()["revoked"], source.stats()["revoke_failed"]]
    print(json.dumps(answer), flush=True)
"""


class Peer:
    """One process that uses the credentials, told what to do line by line."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, command: str) -> None:
        """Have it do something, without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def answer(self) -> list[Any]:
        """Return what came of it."""
        assert self.process.stdout is not None
        return list(json.loads(self.process.stdout.readline()))

    def ask(self, command: str) -> list[Any]:
        """Have it do something, and return what came of it."""
        self.begin(command)
        return self.answer()

    def end(self) -> None:
        """Let it end as programs do: it gives back what it has to."""
        self.process.communicate(timeout=30)


Start = Callable[[], Peer]


@pytest.fixture
def start(
    vault_database: DatabaseSecretsEngine, approle: AppRole, tmp_path: Path
) -> Iterator[Start]:
    """Call it for another process, which looks for nothing new by itself."""
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o700)
    config = {
        "ADAPTER": "vault",
        "ADDRESS": vault_database.openbao.address,
        "MOUNT": vault_database.mount,
        "ROLE": "dynamic",
        "AUTH": approle(token_period="1h"),
        "SHARED": str(directory),
        "BACKGROUND": False,
    }
    peers: list[Peer] = []

    def begin() -> Peer:
        peers.append(Peer(config))
        return peers[-1]

    yield begin
    for peer in peers:
        if peer.process.poll() is None:
            peer.process.kill()
        peer.process.communicate()


def leases(engine: DatabaseSecretsEngine) -> int:
    """Return how many leases the Vault has given out."""
    with suppress(InvalidPath):
        answer = engine.client.sys.list_leases(prefix=f"{engine.mount}/creds/dynamic")
        return len(answer["data"]["keys"])
    return 0


def tokens(engine: DatabaseSecretsEngine) -> set[str]:
    return set(engine.client.auth.token.list_accessors()["data"]["keys"])


def is_there(engine: DatabaseSecretsEngine, user: str) -> bool:
    query = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
    return engine.database.execute(query, (user,)) == [(1,)]


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def four(start: Start, vault_database: DatabaseSecretsEngine) -> list[Peer]:
    """Four processes that have asked at the same time."""
    before = tokens(vault_database)
    peers = [start() for _ in range(4)]
    for peer in peers:
        peer.begin("get")
    found = [peer.answer() for peer in peers]
    assert len({user for user, _ in found}) == 1
    assert leases(vault_database) == 1
    assert len(tokens(vault_database) - before) == 1
    return peers


@pytest.mark.long
def test_one_renews_for_all(four: list[Peer], vault_database: DatabaseSecretsEngine) -> None:
    """Four processes cause one lease and one login; a renewal by one is seen by the others."""
    user, ends = four[0].ask("get")
    wait_until(lambda: time.time() > ends - 3598)
    renewed = four[1].ask("renew")
    assert renewed[0] == user
    assert renewed[1] > ends + 1
    for peer in (four[0], *four[2:]):
        # A look at the file is due a second after the last.
        wait_until(lambda peer=peer: peer.ask("get")[1] > renewed[1] - 0.5)  # type: ignore[misc]
    assert leases(vault_database) == 1


@pytest.mark.long
def test_a_new_lease_is_taken_by_all(
    four: list[Peer], vault_database: DatabaseSecretsEngine
) -> None:
    """Who is told to fetch fetches for all; the old lease goes when the last has moved."""
    old, _ = four[0].ask("get")
    new, _ = four[0].ask("refresh")
    assert new != old
    assert leases(vault_database) == 2
    for peer in four[1:]:
        # A look at the file is due a second after the fetch.
        wait_until(lambda peer=peer: peer.ask("get")[0] == new)  # type: ignore[misc]
    assert leases(vault_database) == 2
    for peer in four:
        peer.end()
    assert leases(vault_database) == 0


@pytest.mark.long
def test_the_one_that_fetched_is_killed(
    start: Start, vault_database: DatabaseSecretsEngine
) -> None:
    """Its lease and its token stay in use, renewals go on, and the last one gives both back."""
    before = tokens(vault_database)
    first = start()
    user, ends = first.ask("get")
    others = [start() for _ in range(2)]
    assert [peer.ask("get")[0] for peer in others] == [user, user]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(10)
    wait_until(lambda: time.time() > ends - 3598)
    assert others[0].ask("renew")[1] > ends + 1
    assert others[0].ask("close") == [1, 0]
    assert is_there(vault_database, user)
    assert others[1].ask("get")[0] == user
    assert len(tokens(vault_database) - before) == 1
    assert others[1].ask("close") == [1, 0]
    assert leases(vault_database) == 0
    assert tokens(vault_database) == before
    wait_until(lambda: not is_there(vault_database, user))


def test_killed_while_it_asks(start: Start, vault_database: DatabaseSecretsEngine) -> None:
    """A process that is killed while all others wait for it holds up nobody."""
    first, second = start(), start()
    first.begin("get")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait(10)
    assert is_there(vault_database, second.ask("get")[0])


def test_the_last_one_out_gives_back(
    four: list[Peer], vault_database: DatabaseSecretsEngine
) -> None:
    """Processes that end leave the lease to the others; the last one gives it back."""
    user, _ = four[0].ask("get")
    for peer in four[:3]:
        peer.end()
        assert is_there(vault_database, user)
    four[3].end()
    assert not is_there(vault_database, user)
    assert leases(vault_database) == 0
