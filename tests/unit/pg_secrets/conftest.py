"""A clock that stands still, and sources that go by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from pg_secrets import CredentialAdapter, CredentialEvent, CredentialSource
from pg_secrets.testing.clock import FakeClock


class FixedRandom(Random):
    """Always draws the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


MakeSource = Callable[..., CredentialSource]


@pytest.fixture
def clock() -> FakeClock:
    """A clock on which retries take no real time."""
    return FakeClock(autojump=True)


@pytest.fixture
def make_source(clock: FakeClock) -> Iterator[MakeSource]:
    """Make sources without a background thread and, unless told, without jitter."""
    made: list[CredentialSource] = []

    def make(
        adapter: CredentialAdapter,
        *,
        jitter: float = 0.0,
        background: bool = False,
        ttl: float | None = None,
        clock: FakeClock = clock,
    ) -> CredentialSource:
        source = CredentialSource(
            adapter, ttl=ttl, background=background, clock=clock, random=FixedRandom(jitter)
        )
        made.append(source)
        return source

    yield make
    for source in made:
        source.close()


@pytest.fixture
def heard() -> Callable[[CredentialSource], list[CredentialEvent]]:
    """Collect a source's events in a list."""

    def collect(source: CredentialSource) -> list[CredentialEvent]:
        events: list[CredentialEvent] = []
        source.subscribe(events.append)
        return events

    return collect
