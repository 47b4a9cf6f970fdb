"""Renewal, rotation, expiry, and giving leases back."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from pg_secrets import (
    CredentialAdapter,
    CredentialEvent,
    Credentials,
    CredentialsDenied,
    CredentialsError,
    CredentialSource,
    CredentialsUnavailable,
    Lease,
)
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]
Heard = Callable[[CredentialSource], list[CredentialEvent]]

AWAY = CredentialsUnavailable("away")


def leased(number: int = 1, duration: float = 3600.0) -> Credentials:
    lease = Lease(id=f"lease-{number}", duration=duration, renewable=True)
    return Credentials(user=f"v-{number}", password=f"secret-{number}", lease=lease)


def kinds(events: list[CredentialEvent]) -> list[str]:
    return [event.kind for event in events]


@pytest.mark.parametrize(("jitter", "point"), [(0.0, 0.67), (0.999, 0.7699)])
def test_lease_is_renewed_between_67_and_77_percent(
    clock: FakeClock, make_source: MakeSource, heard: Heard, jitter: float, point: float
) -> None:
    """A lease is extended when its point has come, not before, and the login stays."""
    adapter = ScriptedAdapter(leased(), renewals=[leased()])
    source = make_source(adapter, jitter=jitter)
    events = heard(source)
    source.get()
    clock.advance(3600 * point - 1.0)
    source.get()
    assert adapter.renewed == 0
    clock.advance(2.0)
    assert source.get().generation == 1
    assert (adapter.renewed, adapter.fetches) == (1, 1)
    assert kinds(events) == ["fetched", "renewed"]
    assert source.stats()["expires_in"] == pytest.approx(3600.0)


def test_lease_is_renewed_again_and_again(clock: FakeClock, make_source: MakeSource) -> None:
    """Each full renewal starts the timetable anew."""
    adapter = ScriptedAdapter(leased(), renewals=[leased()])
    source = make_source(adapter)
    for _ in range(5):
        source.get()
        clock.advance(3600 * 0.68)
    source.get()
    assert (adapter.renewed, adapter.fetches, source.generation) == (5, 1, 1)


@pytest.mark.parametrize(
    "answer", [None, CredentialsDenied("no"), leased(duration=1800.0), leased(2)]
)
def test_rotates_when_renewal_is_refused_or_truncated(
    clock: FakeClock, make_source: MakeSource, answer: Credentials | CredentialsDenied | None
) -> None:
    """A renewal that is refused, cut short or of another login is followed by a fetch at once."""
    adapter = ScriptedAdapter(leases(), renewals=[answer])
    source = make_source(adapter)
    source.get()
    clock.advance(3600 * 0.68)
    assert source.get().user == "v-2"
    assert (adapter.renewed, adapter.fetches) == (1, 2)


def test_renewal_is_tried_again_while_there_is_time(
    clock: FakeClock, make_source: MakeSource, heard: Heard
) -> None:
    """A store that is away when the lease is due costs a retry, not the lease."""
    adapter = ScriptedAdapter(leased(), renewals=[AWAY, AWAY, leased()])
    source = make_source(adapter, jitter=0.5)
    events = heard(source)
    source.get()
    clock.advance(3600 * 0.73)
    for _ in range(3):
        assert source.get().user == "v-1"
        clock.advance(10.0)
    assert kinds(events) == ["fetched", "renew_failed", "renew_failed", "renewed"]
    assert (adapter.renewed, adapter.fetches) == (3, 1)


def test_rotates_when_renewing_failed_until_the_margin(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """When a fifth of the lease is left and renewing still fails, a new one is fetched."""
    adapter = ScriptedAdapter(leases(), renewals=[AWAY])
    source = make_source(adapter)
    source.get()
    clock.advance(3600 * 0.7)
    assert source.get().user == "v-1"
    clock.advance(3600 * 0.11)
    assert source.get().user == "v-2"


@pytest.mark.parametrize(("duration", "margin"), [(3600.0, 720.0), (200.0, 60.0), (30.0, 10.0)])
def test_lease_that_cannot_be_renewed_is_replaced_at_its_margin(
    clock: FakeClock, make_source: MakeSource, duration: float, margin: float
) -> None:
    """A new lease is fetched when min(a third, max(60 s, 20 %)) remains, and not before."""
    adapter = ScriptedAdapter(leases(duration, renewable=False))
    source = make_source(adapter)
    source.get()
    clock.advance(duration - margin - 0.5)
    assert source.get().user == "v-1"
    clock.advance(1.0)
    assert source.get().user == "v-2"
    assert adapter.renewed == 0


def test_short_lease_is_renewed_rather_than_replaced(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A renewable 30-second lease lives on by renewals, though its margin begins before 67 %."""
    adapter = ScriptedAdapter(leases(30.0), renewals=[lambda: leased(duration=30.0)])
    source = make_source(adapter, jitter=0.9)
    for _ in range(120):
        source.get()
        clock.advance(1.0)
    assert adapter.fetches == 1
    assert adapter.renewed >= 4


def test_lease_has_no_ttl(clock: FakeClock, make_source: MakeSource) -> None:
    """A lease that is far from its end is not asked for again, however often it is looked up."""
    adapter = ScriptedAdapter(leases(86400.0))
    source = make_source(adapter, ttl=10.0)
    for _ in range(20):
        source.get()
        clock.advance(60.0)
    assert (adapter.fetches, adapter.renewed) == (1, 0)


# expiry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [900.0, 100.0])
def test_expiry_is_the_earlier_of_lease_and_parent(
    clock: FakeClock, make_source: MakeSource, duration: float
) -> None:
    """A lease that outlives the token it hangs on ends with the token."""
    end = clock.time() + 300.0
    source = make_source(ScriptedAdapter(leased(duration=duration).replace(expires_at=end)))
    expected = min(clock.time() + duration, end)
    assert source.get().expires_at == pytest.approx(expected)


def test_nothing_is_used_past_its_expiry(
    clock: FakeClock, make_source: MakeSource, heard: Heard
) -> None:
    """With the store away a lease serves to its last second, and then raises."""
    adapter = ScriptedAdapter([leased(duration=600.0), AWAY], renewals=[AWAY])
    source = make_source(adapter, jitter=0.5)
    events = heard(source)
    source.get()
    clock.advance(599.0)
    assert source.get().user == "v-1"
    clock.advance(1.0)
    with pytest.raises(CredentialsUnavailable):
        source.get()
    assert kinds(events).count("expired") == 1


class Unnoticing(ScriptedAdapter):
    """Like Vault's, it cannot say whether there is something newer: look-ups end in memory."""

    changed = CredentialAdapter.changed


@pytest.mark.parametrize("passed", [0.0, 1.0, 599.0])
def test_wall_clock_that_jumps_past_the_end_counts(
    clock: FakeClock, make_source: MakeSource, passed: float
) -> None:
    """After a suspend, during which the monotonic clock stood still, a lease is not trusted."""
    source = make_source(Unnoticing(leases(3600.0)))
    source.get()
    clock.step(3601.0)
    clock.advance(passed)
    assert source.current is None
    assert source.get().user == "v-2"


def test_wall_clock_set_back_does_not_prolong(clock: FakeClock, make_source: MakeSource) -> None:
    """A clock that is set back does not keep a lease in use past its end."""
    adapter = ScriptedAdapter(leases(600.0, renewable=False))
    source = make_source(adapter)
    source.get()
    clock.step(-3600.0)
    clock.advance(601.0)
    assert source.get().user == "v-2"


def test_expired_on_arrival_is_invalid(clock: FakeClock, make_source: MakeSource) -> None:
    """What has expired when it comes from the store is refused with a hint at the clocks."""
    adapter = ScriptedAdapter(Credentials(user="app", expires_at=clock.time() - 1.0))
    with pytest.raises(ValueError, match="clocks differ"):
        make_source(adapter).get()


def test_role_in_the_database_ends_earlier(clock: FakeClock, make_source: MakeSource) -> None:
    """A reported rolvaliduntil caps the expiry, and the rotation comes before it."""
    adapter = ScriptedAdapter(leases(3600.0, renewable=False))
    source = make_source(adapter)
    credentials = source.get()
    end = clock.time() + 900.0
    source.valid_until(credentials, end)
    assert source.get().expires_at == end
    assert source.get().generation == 1
    clock.advance(900 - 180 - 1)
    assert source.get().user == "v-1"
    clock.advance(2.0)
    assert source.get().user == "v-2"


def test_role_without_an_end_changes_nothing(clock: FakeClock, make_source: MakeSource) -> None:
    """A role that lives for ever, and one of another generation, leave the lease's expiry."""
    source = make_source(ScriptedAdapter(leases(3600.0)))
    credentials = source.get()
    source.valid_until(credentials, None)
    source.valid_until(credentials.replace(user="other"), clock.time() + 1.0)
    assert source.get().expires_at == credentials.expires_at


def test_role_that_ended_and_logs_in_says_that_clocks_differ(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """An end that lies in the past although the login worked does not take the login away."""
    source = make_source(ScriptedAdapter(leases(3600.0)))
    credentials = source.get()
    source.valid_until(credentials, clock.time() - 5.0)
    assert source.get().expires_at == credentials.expires_at


def test_renewal_frees_from_the_roles_end_until_it_is_read_again(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """After a renewal the earlier rolvaliduntil counts no more, and a new report does."""
    adapter = ScriptedAdapter(leased(), renewals=[leased()])
    source = make_source(adapter)
    source.valid_until(source.get(), clock.time() + 3000.0)
    clock.advance(3600 * 0.68)
    renewed = source.get()
    assert renewed.expires_at == pytest.approx(clock.time() + 3600.0)
    source.valid_until(renewed, clock.time() + 2000.0)
    assert source.get().expires_at == pytest.approx(clock.time() + 2000.0)


def test_renewal_that_does_not_move_the_roles_end_leads_to_rotation(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """Where renewing the lease leaves the role's own end, the login is replaced before it."""
    adapter = ScriptedAdapter(leases(), renewals=[leased()])
    source = make_source(adapter)
    end = clock.time() + 3600.0
    source.valid_until(source.get(), end)
    clock.advance(3600 * 0.68)
    source.valid_until(source.get(), end)
    clock.advance(3600 * 0.26)
    assert source.get().user == "v-2"
    assert adapter.renewed == 1


# giving back ------------------------------------------------------------------------------


def rotate(source: CredentialSource) -> Credentials:
    """Fetch a first lease if there is none, and replace it."""
    source.get()
    return source.refresh(timeout=60.0)


def test_superseded_lease_is_revoked_when_its_last_hold_is_released(
    make_source: MakeSource, heard: Heard
) -> None:
    """A replaced lease lives while one of two connections holds it, and is given back after."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)
    events = heard(source)
    first = source.get()
    one, two = source.hold(first), source.hold(first)
    rotate(source)
    one.release()
    one.release()
    source.tend()
    assert adapter.revoked == []
    two.release()
    adapter.wait_for(lambda: len(adapter.revoked) == 1)
    assert adapter.revoked[0].user == "v-1"
    source.close()
    assert kinds(events).count("revoked") == 2


def test_current_lease_is_not_revoked_when_nobody_holds_it(make_source: MakeSource) -> None:
    """Releasing the last hold of what is still current gives nothing back."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)
    with source.hold(source.get()):
        pass
    source.tend()
    assert adapter.revoked == []


def test_lease_nobody_ever_held_is_kept_until_the_end(make_source: MakeSource) -> None:
    """A replaced lease may be in use by somebody who does not say so: close() gives it back."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)
    rotate(source)
    source.tend()
    assert adapter.revoked == []
    source.close()
    assert {credentials.user for credentials in adapter.revoked} == {"v-1", "v-2"}
    assert adapter.closed == 1


def test_close_waits_for_holds(make_source: MakeSource) -> None:
    """A lease that is held when its source is closed is given back when it is released."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)
    hold = source.hold(source.get())
    source.close()
    assert (adapter.revoked, adapter.closed) == ([], 0)
    hold.release()
    adapter.wait_for(lambda: adapter.closed == 1)
    assert len(adapter.revoked) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() does not wait for what it began."""
    monkeypatch.setattr("pg_secrets.revocation._CLOSING", 0.0)


def asking(ask: Callable[[], object]) -> threading.Thread:
    """Ask in a thread that does not mind an error."""

    def run() -> None:
        with suppress(CredentialsError):
            ask()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class Orderly(ScriptedAdapter):
    """Refuses to be closed before all it handed out was given back."""

    def close(self) -> None:
        assert len(self.revoked) == self.fetches
        super().close()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.usefixtures("impatient")
def test_lease_that_comes_after_close_is_given_back(make_source: MakeSource, before: int) -> None:
    """What a fetch brings to a source closed meanwhile is revoked, and the adapter closed then."""
    adapter = Orderly(leases())
    source = make_source(adapter)
    for _ in range(before):
        source.get()
    adapter.answering.clear()
    thread = asking(source.refresh)
    adapter.wait_for(lambda: adapter.fetches == before + 1)
    source.close()
    adapter.answering.set()
    adapter.wait_for(lambda: adapter.closed == 1)
    thread.join(10.0)
    assert len(adapter.revoked) == before + 1
    assert source.stats()["leases"] == 0


@pytest.mark.usefixtures("impatient")
def test_renewal_that_ends_after_close_puts_nothing_back(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A lease that is renewed while its source is closed is given back once."""
    adapter = Orderly(leased(), renewals=[leased()])
    source = make_source(adapter)
    source.get()
    clock.advance(3600 * 0.68)
    adapter.answering.clear()
    thread = asking(source.get)
    adapter.wait_for(lambda: adapter.renewed == 1)
    source.close()
    adapter.answering.set()
    thread.join(10.0)
    adapter.wait_for(lambda: adapter.closed == 1)
    assert source.stats()["leases"] == 0


def test_closed_source_hands_out_nothing(make_source: MakeSource) -> None:
    """What a closed source is told of a login does not make it hand that out again."""
    source = make_source(Unnoticing())
    credentials = source.get()
    source.close()
    source.valid_until(credentials, None)
    assert source.current is None
    with pytest.raises(CredentialsError, match="closed"):
        source.get()


def test_adapter_is_closed_when_the_last_held_lease_expires(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A lease that expires while it is held does not keep a closed source's adapter open."""
    adapter = ScriptedAdapter(leases(60.0))
    source = make_source(adapter)
    hold = source.hold(source.get())
    source.close()
    clock.advance(61.0)
    source.tend()
    adapter.wait_for(lambda: adapter.closed == 1)
    hold.release()
    assert adapter.revoked == []


def test_expired_lease_is_not_given_back(clock: FakeClock, make_source: MakeSource) -> None:
    """A lease that ended by itself costs no request."""
    adapter = ScriptedAdapter(leases(60.0, renewable=False))
    source = make_source(adapter)
    hold = source.hold(source.get())
    clock.advance(61.0)
    source.get()
    source.tend()
    hold.release()
    source.close()
    assert [credentials.user for credentials in adapter.revoked] == ["v-2"]


def test_renewed_lease_is_given_back_once(clock: FakeClock, make_source: MakeSource) -> None:
    """Renewals do not add leases: one login, one revocation."""
    adapter = ScriptedAdapter(leased(), renewals=[leased()])
    source = make_source(adapter)
    source.get()
    clock.advance(3600 * 0.68)
    source.get()
    source.close()
    assert len(adapter.revoked) == 1


def test_hold_can_be_released_by_the_garbage_collector(make_source: MakeSource) -> None:
    """A finalizer that runs in the middle of the source's own work does not deadlock."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)

    class Owner:
        def __init__(self) -> None:
            self.hold, self.cycle = source.hold(source.get()), self

        def __del__(self) -> None:
            self.hold.release()

    gc.disable()
    try:
        for _ in range(3):
            Owner()
            gc.collect()
            rotate(source)
    finally:
        gc.enable()
    adapter.wait_for(lambda: len(adapter.revoked) >= 1)
    assert source.stats()["holds"] == 0


def test_failed_revocation_is_counted_and_harmless(
    make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that is away when a lease is given back costs a warning, nothing else."""

    class Stuck(ScriptedAdapter):
        def revoke(self, credentials: Credentials) -> None:
            raise CredentialsUnavailable("away")

    source = make_source(Stuck(leases()))
    source.get()
    source.close()
    assert source.stats()["revoke_failed"] == 1
    assert "could not be given back" in caplog.text
