"""What follows when the server refuses a login."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from pg_secrets import (
    CredentialEvent,
    Credentials,
    CredentialSource,
    CredentialsUnavailable,
)
from pg_secrets.rejection import RejectionGate, login_fingerprint
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock

MakeSource = Callable[..., CredentialSource]
Heard = Callable[[CredentialSource], list[CredentialEvent]]

OLD = Credentials(user="app", password="old")
NEW = Credentials(user="app", password="new")


def test_rejected_login_is_fetched_anew(
    clock: FakeClock, make_source: MakeSource, heard: Heard
) -> None:
    """After a refusal the next look-up asks the store and returns what is new there."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter)
    events = heard(source)
    old = source.get()
    clock.advance(5.0)
    source.rejected(old, "28P01")
    assert source.get().password == "new"
    assert [event.kind for event in events] == ["fetched", "rejected", "rotated"]
    assert "28P01" in str(events[1].error)


def test_store_is_asked_on_the_rejection_schedule(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """While the store has the same, it is asked at growing intervals, then once a minute."""
    adapter = ScriptedAdapter(OLD)
    source = make_source(adapter)
    old = source.get()
    clock.advance(5.0)
    source.rejected(old, "28P01")
    asked, start = [], clock.monotonic()
    for _ in range(2000):
        before = adapter.fetches
        source.get()
        if adapter.fetches > before:
            asked.append(round(clock.monotonic() - start, 1))
        clock.advance(0.1)
    gaps = [round(b - a, 1) for a, b in pairwise(asked)]
    assert asked[0] == 0.0
    assert gaps[:4] == pytest.approx([1.0, 1.0, 2.0, 4.0], abs=0.3)
    assert all(gap == pytest.approx(5.0, abs=0.3) for gap in gaps[4:8])
    assert all(gap >= 59.0 for gap in gaps[-2:])


def test_rejection_without_a_sqlstate_shows_none(make_source: MakeSource, heard: Heard) -> None:
    """Where no SQLSTATE is known the event says that the login was refused, and nothing else."""
    source = make_source(ScriptedAdapter(OLD))
    events = heard(source)
    source.rejected(source.get())
    assert str(events[-1].error) == "the server refused the login"


def test_hundred_reports_are_one_rejection(
    clock: FakeClock, make_source: MakeSource, heard: Heard
) -> None:
    """All connections that fail at once cause one request and one event."""
    adapter = ScriptedAdapter(OLD)
    source = make_source(adapter)
    events = heard(source)
    old = source.get()
    clock.advance(5.0)
    for _ in range(100):
        source.rejected(old, "28P01")
        source.get()
    assert adapter.fetches == 2
    assert [event.kind for event in events] == ["fetched", "rejected", "unchanged"]
    assert source.stats()["rejections"] == 100


def test_report_about_an_older_generation_is_ignored(make_source: MakeSource) -> None:
    """A refusal of what has been replaced already does not bother the store."""
    adapter = ScriptedAdapter([OLD, NEW])
    source = make_source(adapter)
    old = source.get()
    source.refresh()
    source.rejected(old, "28P01")
    assert source.get().password == "new"
    assert adapter.fetches == 2


def test_accepted_login_ends_the_polling(clock: FakeClock, make_source: MakeSource) -> None:
    """When the server takes the login after all, the store is left alone again."""
    adapter = ScriptedAdapter(OLD)
    source = make_source(adapter)
    old = source.get()
    clock.advance(5.0)
    source.rejected(old, "28P01")
    source.get()
    source.valid_until(old, None)
    clock.advance(30.0)
    source.get()
    assert adapter.fetches == 2
    assert source.gate.remaining(old.fingerprint) == 0.0


def test_rejected_login_is_still_served_while_the_store_is_away(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """A refusal does not turn what is held into nothing when the store does not answer."""
    adapter = ScriptedAdapter([OLD, CredentialsUnavailable("away")])
    source = make_source(adapter)
    old = source.get()
    clock.advance(5.0)
    source.rejected(old, "28P01")
    assert source.get().password == "old"


def test_server_that_refuses_every_lease_does_not_drain_the_store(
    clock: FakeClock, make_source: MakeSource
) -> None:
    """New leases that are all refused are asked for at growing intervals."""
    adapter = ScriptedAdapter(leases())
    source = make_source(adapter)
    source.get()
    for _ in range(1200):
        source.rejected(source.get(), "28000")
        clock.advance(0.1)
    assert adapter.fetches <= 13


def test_next_episode_begins_at_once(clock: FakeClock, make_source: MakeSource) -> None:
    """A refusal long after the last one asks the store without delay."""
    adapter = ScriptedAdapter(OLD)
    source = make_source(adapter)
    old = source.get()
    for _ in range(2):
        clock.advance(200.0)
        before = adapter.fetches
        source.rejected(old, "28P01")
        source.get()
        assert adapter.fetches == before + 1
        source.valid_until(old, None)


# the gate ---------------------------------------------------------------------------------


def test_gate_lets_unknown_logins_through(clock: FakeClock) -> None:
    """A login that was never refused is not held up, however often it is tried."""
    gate = RejectionGate(clock)
    assert [gate.delay("a") for _ in range(3)] == [0.0] * 3


def test_gate_follows_the_schedule(clock: FakeClock) -> None:
    """A login refused each time may be tried after 0.5, 1, 2, 4, 5 s…, then once a minute."""
    gate, waits = RejectionGate(clock), []
    for _ in range(12):
        waits.append(gate.rejected("a"))
        clock.advance(waits[-1])
        assert gate.delay("a") == 0.0
    assert waits == [0.5, 1, 2, 4, 5, 5, 5, 5, 5, 60, 60, 60]


def test_gate_admits_one_at_a_time(clock: FakeClock) -> None:
    """Of all who wait for a refused login one may try; the others wait for what comes of it."""
    gate = RejectionGate(clock)
    gate.rejected("a")
    clock.advance(0.5)
    waits = [gate.delay("a") for _ in range(5)]
    assert waits[0] == 0.0
    assert all(wait > 0.0 for wait in waits[1:])
    assert gate.rejected("a") == 1.0


def test_gate_counts_simultaneous_refusals_once(clock: FakeClock) -> None:
    """A hundred connections refused at the same moment are one refusal."""
    gate = RejectionGate(clock)
    assert [gate.rejected("a") for _ in range(100)] == [0.5] * 100


def test_gate_tells_logins_apart(clock: FakeClock) -> None:
    """A refused password does not hold up another one, and acceptance forgets it."""
    gate = RejectionGate(clock)
    gate.rejected("a")
    assert gate.delay("a") == 0.5
    assert gate.delay("b") == 0.0
    gate.accepted("a")
    assert gate.delay("a") == 0.0


def test_gate_remembers_a_bounded_number(clock: FakeClock) -> None:
    """However many logins are refused, only the latest 256 are remembered."""
    gate = RejectionGate(clock)
    for number in range(300):
        gate.rejected(str(number))
    assert sum(gate.delay(str(number)) > 0.0 for number in range(300)) == 256


def test_login_fingerprint_tells_user_and_password_apart() -> None:
    """Only user and password count, and the digest does not show them."""
    login = {"user": "app", "password": "canary", "host": "a"}
    assert login_fingerprint(login) == login_fingerprint({**login, "host": "b"})
    assert login_fingerprint(login) != login_fingerprint({**login, "password": "other"})
    assert "canary" not in login_fingerprint(login)
