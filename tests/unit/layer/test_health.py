"""What a layer counts and signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from channels_pg_secrets import signals
from channels_pg_secrets.layer import health as module
from channels_pg_secrets.layer.health import Health

ALL = {name: getattr(signals, name) for name in signals.__all__}


class Sender:
    """Stands for an engine's class."""


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Everything that is sent by Sender, without what stands in every signal."""
    found: list[tuple[str, dict[str, Any]]] = []
    names = {id(signal): name for name, signal in ALL.items()}

    def hear(signal: Signal, sender: type, prefix: str, node: str, **what: Any) -> None:
        assert (sender, prefix, node) == (Sender, "asgi", "1")
        found.append((names[id(signal)], what))

    for signal in ALL.values():
        signal.connect(hear, sender=Sender)
    yield found
    for signal in ALL.values():
        signal.disconnect(hear, sender=Sender)


@pytest.fixture
def health() -> Health:
    return Health(Sender, "asgi", "1")


Heard = list[tuple[str, dict[str, Any]]]


def test_nothing_is_sent_before_its_time(health: Health, heard: Heard) -> None:
    """Whatever happens, receivers are called by send() alone."""
    health.connected("listener", 1, moved=False)
    health.disconnected("listener", OSError("gone"))
    health.replayed(1)
    health.drop("expired")
    health.sweep()
    assert heard == []
    health.send()
    assert len(heard) == 4
    health.send()
    assert len(heard) == 4


def test_a_rotation_is_a_change_of_generation(health: Health, heard: Heard) -> None:
    """Moving to a connection is a rotation only where its credentials are others."""
    health.connected("listener", 1, moved=False)
    health.connected("publisher", 1, moved=False)
    health.connected("listener", 1, moved=True)
    health.connected("listener", 2, moved=True)
    health.connected("publisher", 2, moved=False)
    health.send()
    rotated = [what for name, what in heard if name == "rotated"]
    assert rotated == [
        {"connection": "listener", "generation": 2},
        {"connection": "publisher", "generation": 2},
    ]
    assert (health.connects, health.hand_overs, health.rotations) == (5, 2, 2)


def test_drops_are_told_together(health: Health, heard: Heard) -> None:
    """All drops since the last sweep are one signal for each reason, and none without drops."""
    for _ in range(1000):
        health.drop("over_capacity")
    health.drop("unreadable", 3)
    health.sweep()
    health.sweep()
    health.drop("unreadable")
    health.sweep()
    health.send()
    assert heard == [
        ("dropped", {"reason": "over_capacity", "messages": 1000}),
        ("dropped", {"reason": "unreadable", "messages": 3}),
        ("dropped", {"reason": "unreadable", "messages": 1}),
    ]


def test_what_overflows_is_told_by_channel(
    health: Health, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that lost messages and those that only filled up are one signal and one line."""
    health.overflowed("worker")
    for _ in range(3):
        health.overflowed("other")
    health.sweep(["third"])
    health.sweep()
    health.send()
    assert heard == [
        ("over_capacity", {"channel": "other", "channels": 3, "messages": 4}),
        ("dropped", {"reason": "over_capacity", "messages": 4}),
    ]
    (line,) = caplog.messages
    assert line == "4 messages were dropped at 3 channels over capacity; most (3) at other"


def test_channels_that_overflow_are_told_apart_up_to_a_bound(health: Health, heard: Heard) -> None:
    """A channel that is named already goes on being counted."""
    for number in range(1100):
        health.overflowed(f"channel{number}")
    health.overflowed("channel7")
    health.sweep()
    health.send()
    name, what = heard[0]
    assert (name, what) == (
        "over_capacity",
        {"channel": "channel7", "channels": 1000, "messages": 1001},
    )
    assert health.drops["over_capacity"] == 1101


def test_nothing_replayed_is_not_told(health: Health, heard: Heard) -> None:
    """Reading an empty backlog, as every new connection does, is no event."""
    health.replayed(0)
    health.send()
    assert heard == []


def test_a_reason_is_one_line(health: Health, heard: Heard) -> None:
    """Of an error that goes on with its context only the first line is told."""
    health.disconnected("listener", OSError("gone\nCONTEXT:  something"))
    health.disconnected("listener", OSError())
    health.send()
    assert [what["reason"] for _, what in heard] == ["gone", "OSError"]


def test_signals_that_wait_are_bounded(
    health: Health, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody sends them, only the latest are kept."""
    for number in range(module._PENDING + 10):
        health.replayed(number + 1)
    health.send()
    assert len(heard) == module._PENDING
    assert heard[-1] == ("replayed", {"frames": module._PENDING + 10})


def test_a_failing_receiver_harms_nobody(
    health: Health, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a receiver is logged, and the others are called."""

    def fail(**what: Any) -> None:
        raise ZeroDivisionError

    signals.replayed.connect(fail, sender=Sender)
    try:
        health.replayed(1)
        health.replayed(2)
        health.send()
    finally:
        signals.replayed.disconnect(fail, sender=Sender)
    assert heard == [("replayed", {"frames": 1}), ("replayed", {"frames": 2})]
    assert "fail" in caplog.text
