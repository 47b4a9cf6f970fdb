from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from pg_secrets import CredentialEvent, CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter

MakeSource = Callable[..., CredentialSource]


def test_failing_listener_harms_nobody(
    make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that raises is logged by type, and the others and the caller are served."""
    source = make_source(ScriptedAdapter())
    heard: list[str] = []

    def broken(event: CredentialEvent) -> None:
        raise ValueError("canary-text")

    source.subscribe(broken)
    source.subscribe(lambda event: heard.append(event.kind))
    assert source.get().user == "app"
    assert heard == ["fetched"]
    assert source.stats()["listener_failures"] == 1
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_a_finalizer_may_unsubscribe_at_any_point(make_source: MakeSource) -> None:
    """The garbage collector runs it in whatever thread, whatever that is doing just then."""
    source = make_source(ScriptedAdapter())

    class Dropped:
        def __init__(self) -> None:
            self.itself = self
            weakref.finalize(self, source.subscribe(lambda event: None))

    def churn() -> None:
        for _ in range(2000):
            Dropped()
            source.subscribe(lambda event: None)()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        churning = threading.Thread(target=churn, daemon=True)
        churning.start()
        churning.join(20)
    finally:
        gc.set_threshold(*before)
    assert not churning.is_alive()


def test_unsubscribed_listener_hears_nothing(make_source: MakeSource) -> None:
    """Each subscription ends on its own, also when one listener subscribed twice."""
    source = make_source(ScriptedAdapter())
    heard: list[CredentialEvent] = []
    first, second = source.subscribe(heard.append), source.subscribe(heard.append)
    first()
    first()
    source.get()
    assert len(heard) == 1
    second()
    source.refresh()
    assert len(heard) == 1


def test_listener_may_ask_the_source(make_source: MakeSource) -> None:
    """A listener that looks the credentials up gets those the event is about."""
    source = make_source(ScriptedAdapter())
    seen: list[int] = []
    source.subscribe(lambda event: seen.append(source.get().generation))
    source.get()
    assert seen == [1]


def test_events_cannot_be_changed_and_say_when(make_source: MakeSource) -> None:
    """An event is frozen, dated by the wall clock, and names its generation."""
    source = make_source(ScriptedAdapter())
    heard: list[CredentialEvent] = []
    source.subscribe(heard.append)
    source.get()
    (event,) = heard
    assert (event.generation, event.at, event.error) == (1, 1_700_000_000.0, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.kind = "rotated"  # type: ignore[misc]
