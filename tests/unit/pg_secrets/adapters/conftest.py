"""A scripted Vault for what takes time or ill will."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pg_secrets.testing.clock import FakeClock
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer


@pytest.fixture
def vault() -> Iterator[ScriptedHttpServer]:
    """A scripted server at which the fixed token lives for ever."""
    with ScriptedHttpServer() as server:
        lookup = {"data": {"ttl": 0, "renewable": False}}
        server.script("GET", "/v1/auth/token/lookup-self", HttpAnswer(body=lookup))
        yield server


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only a test moves."""
    return FakeClock()
