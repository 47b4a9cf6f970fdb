"""Configures Django for the tests in this folder, and gives them a clock that stands still."""

from __future__ import annotations

import runpy
from pathlib import Path

import django
import pytest
from django.conf import settings

from channels_pg_secrets.layer import listener, mailbox, membership, outbox
from pg_secrets.testing.clock import FakeClock

if not settings.configured:
    _module = runpy.run_path(str(Path(__file__).parents[2] / "settings.py"))
    settings.configure(**{name: value for name, value in _module.items() if name.isupper()})
django.setup()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time in everything that keeps messages or memberships."""
    fake = FakeClock()
    for module in (listener, mailbox, membership, outbox):
        monkeypatch.setattr(module, "time", fake)
    return fake
