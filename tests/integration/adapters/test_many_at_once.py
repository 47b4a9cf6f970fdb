"""Each adapter behind a source that is asked by many at once, and in a process that forks."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from pg_secrets import Credentials, CredentialSource
from pg_secrets.registry import GROUP, credential_adapter
from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.database import FreshDatabase
from tests.integration.adapters.places import PLACES, Builder, Place

CROWD = 100
FORKING = Path(__file__).with_name("forked_login.py")
#: gRPC's threads do not survive a fork: the reference of adapters says to take REST there.
FORKABLE = [name for name in PLACES if name != "gcp"]


@pytest.fixture
def place(request: pytest.FixtureRequest, database: FreshDatabase, tmp_path: Path) -> Place:
    """A login that the adapter named by the parameter finds, and that the database takes."""
    builder = Builder(request, database.login(), tmp_path)
    build: Callable[[], Place] = getattr(builder, request.param)
    return build()


class HeldBack:
    """A fetch that is counted, and begins in earnest when the whole crowd waits for it."""

    def __init__(self, fetch: Callable[[], Credentials]) -> None:
        self._fetch = fetch
        self.count = 0
        self.crowd_is_there = threading.Event()

    def __call__(self) -> Credentials:
        self.count += 1
        assert self.crowd_is_there.wait(30.0)
        return self._fetch()


def by_threads(source: CredentialSource, clock: FakeClock, fetch: HeldBack) -> list[Credentials]:
    """Ask in a hundred threads."""
    with ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(source.get) for _ in range(CROWD)]
        clock.wait_for_waiters(CROWD, timeout=30.0)
        fetch.crowd_is_there.set()
        return [one.result(30.0) for one in asked]


def by_tasks(source: CredentialSource, _: FakeClock, fetch: HeldBack) -> list[Credentials]:
    """Ask in a hundred tasks of one event loop."""

    async def ask() -> list[Credentials]:
        asked = [asyncio.ensure_future(source.aget()) for _ in range(CROWD)]
        await asyncio.sleep(0)  # each has begun, and waits
        fetch.crowd_is_there.set()
        return await asyncio.wait_for(asyncio.gather(*asked), 30.0)

    return asyncio.run(ask())


def test_every_adapter_is_tried() -> None:
    """There is a place for each adapter that the package brings."""
    own = {entry.name for entry in entry_points(group=GROUP) if "pg_secrets." in entry.value}
    assert own == set(PLACES) - {"gcp_rest"}


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_hundred_who_come_first_cost_one_fetch(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred threads, then a hundred tasks, that ask a cold source share one fetch."""
    for crowd in (by_threads, by_tasks):
        before = place.served() if place.served else 0
        clock = FakeClock()
        adapter = credential_adapter(place.config)
        fetch = HeldBack(adapter.fetch)
        monkeypatch.setattr(adapter, "fetch", fetch)
        source = CredentialSource(adapter, background=False, clock=clock)
        found = crowd(source, clock, fetch)
        assert fetch.count == 1
        assert (len(found), len({id(one) for one in found})) == (CROWD, 1)
        assert found[0].generation == 1
        if place.served:
            assert place.served() - before == place.first
        source.close()


@pytest.mark.parametrize("place", FORKABLE, indirect=True)
def test_a_forked_child_gets_a_login_of_its_own(place: Place, database: FreshDatabase) -> None:
    """The child asks the store and logs in, while the parent goes on with what it has."""
    before = place.served() if place.served else 0
    where: dict[str, Any] | None = None
    if place.login:
        where = database.server.connection_params(database.name)
        del where["user"], where["password"]
    # Forking beside a thread is what this is about, and Python warns of it. Google's client says
    # of Python 3.10 that it is too old, and works.
    flags = ["-W", "error", "-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    done = subprocess.run(
        [sys.executable, *flags, str(FORKING)],
        input=json.dumps({"config": place.config, "where": where}),
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    parent, child, later = map(json.loads, done.stdout.splitlines())
    assert (parent["fetches"], child["fetches"], later["fetches"]) == (1, 2, 2)
    if place.config["ADAPTER"] == "vault":
        assert place.served is not None
        assert len({parent["user"], child["user"], later["user"]}) == 3
        assert place.served() == before  # each gave back what it had
    else:
        assert parent["user"] == child["user"] == later["user"]
        if place.served:
            assert place.served() - before == place.first + 2
