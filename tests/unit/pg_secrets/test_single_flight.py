from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from pg_secrets import Credentials, CredentialSource, CredentialsUnavailable
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]

USERS = 100
OLD = Credentials(user="app", password="old")
NEW = Credentials(user="app", password="new")


class Crowd:
    """Many threads that ask at once."""

    def __init__(self, ask: Callable[[], object], size: int = USERS) -> None:
        self.results: list[object] = []
        self._ask = ask
        self._start = threading.Barrier(size)
        self._threads = [threading.Thread(target=self._run) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        self._start.wait(10.0)
        try:
            self.results.append(self._ask())
        except Exception as error:  # noqa: BLE001 - counted by the test
            self.results.append(error)

    def join(self) -> list[object]:
        for thread in self._threads:
            thread.join(20.0)
        return self.results


def test_hundred_first_users_cost_one_fetch(clock: FakeClock, make_source: MakeSource) -> None:
    """A hundred threads that come first share one request and one snapshot."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = make_source(adapter)
    crowd = Crowd(source.get)
    clock.wait_for_waiters(USERS)
    adapter.answering.set()
    results = crowd.join()
    assert len(results) == USERS
    assert len({id(result) for result in results}) == 1
    assert adapter.fetches == 1


def test_hundred_first_tasks_cost_one_fetch_and_one_thread(make_source: MakeSource) -> None:
    """A hundred tasks that come first share one request, made in one thread."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = make_source(adapter)

    async def crowd() -> list[Credentials]:
        before = threading.active_count()
        tasks = [asyncio.ensure_future(source.aget()) for _ in range(USERS)]
        await asyncio.sleep(0)
        assert threading.active_count() <= before + 1
        adapter.answering.set()
        return await asyncio.gather(*tasks)

    assert len({id(result) for result in asyncio.run(crowd())}) == 1
    assert adapter.fetches == 1


def test_adapter_is_never_called_twice_at_a_time(make_source: MakeSource) -> None:
    """Fetching, looking for changes and giving back take turns."""
    adapter = ScriptedAdapter()
    source = make_source(adapter)
    for result in Crowd(source.refresh, size=20).join():
        assert isinstance(result, Credentials)
    assert adapter.overlap == 1


def test_in_the_soft_window_one_refreshes_and_the_others_go_on(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """When the TTL has passed, whoever comes second gets what there is without waiting."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter)
    source.get()
    clock.advance(301.0)
    adapter.answering.clear()
    refreshing = Crowd(source.get, size=1)
    adapter.wait_for(lambda: adapter.fetches == 2)
    assert [source.get().password for _ in range(10)] == ["old"] * 10
    adapter.answering.set()
    (result,) = refreshing.join()
    assert isinstance(result, Credentials)
    assert result.password == "new"
    assert adapter.fetches == 2


def test_in_the_hard_window_all_wait(clock: FakeClock, make_source: MakeSource) -> None:
    """What has expired is given to nobody: all wait for the one request."""
    adapter = ScriptedAdapter([OLD.replace(expires_at=clock.time() + 600.0), NEW])
    source = make_source(adapter)
    source.get()
    clock.advance(601.0)
    adapter.answering.clear()
    crowd = Crowd(source.get, size=10)
    clock.wait_for_waiters(10)
    assert crowd.results == []
    adapter.answering.set()
    assert {result.password for result in crowd.join() if isinstance(result, Credentials)} == {
        "new"
    }
    assert adapter.fetches == 2


def test_waiters_wait_ten_seconds_at_most() -> None:
    """A crowd in front of a store that hangs is let go after ten seconds by the clock."""
    clock = FakeClock()
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = CredentialSource(adapter, background=False, clock=clock)
    crowd = Crowd(source.get, size=5)
    clock.wait_for_waiters(5)
    clock.advance(9.9)
    assert crowd.results == []
    clock.advance(0.2)
    results = crowd.join()
    assert [type(result) for result in results] == [CredentialsUnavailable] * 5
    adapter.answering.set()
    source.close()


def test_everyone_is_told_of_a_failure(make_source: MakeSource) -> None:
    """All who wait for a request that is refused learn why."""
    error = CredentialsUnavailable("away")
    source = make_source(ScriptedAdapter(error), jitter=0.9)
    results = Crowd(source.get, size=10).join()
    assert len(results) == 10
    for result in results:
        assert isinstance(result, CredentialsUnavailable)
        assert "away" in str(result)
        assert result is not error


def test_refreshes_are_shared(clock: FakeClock, make_source: MakeSource) -> None:
    """Those who ask for a refresh while one is under way share it."""
    adapter = ScriptedAdapter()
    adapter.answering.clear()
    source = make_source(adapter)
    crowd = Crowd(source.refresh, size=20)
    clock.wait_for_waiters(20)
    adapter.answering.set()
    crowd.join()
    assert adapter.fetches == 1


def test_refresh_that_joins_a_renewal_fetches(clock: FakeClock, make_source: MakeSource) -> None:
    """Who asks for a refresh while the lease is being renewed gets what the store has now."""
    adapter = ScriptedAdapter(leases(), renewals=[leases()])
    source = make_source(adapter)
    source.get()
    clock.advance(3600 * 0.8)
    adapter.answering.clear()
    renewing = Crowd(source.get, size=1)
    adapter.wait_for(lambda: adapter.renewed == 1)
    refreshing = Crowd(source.refresh, size=1)
    clock.wait_for_waiters(2)
    adapter.answering.set()
    (result,) = refreshing.join()
    renewing.join()
    assert isinstance(result, Credentials)
    assert result.user == "v-2"
