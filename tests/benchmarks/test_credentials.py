"""The figures of credentials: what is counted is right; none of this looks at the time."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

# At the end: what is installed is what is tested.
sys.path.append(str(Path(__file__).parents[2]))

from pg_secrets.registry import GROUP, credential_adapter
from tests.benchmarks import credentials, import_times, store_requests

OWN = {entry.name for entry in entry_points(group=GROUP) if "pg_secrets." in entry.value}


def test_every_adapter_is_measured() -> None:
    """Each adapter that the package brings is built, and asked for an hour."""
    assert set(import_times.ADAPTERS) == OWN
    assert {case.adapter for case in store_requests.CASES} == OWN - {"chain"}


@pytest.mark.parametrize("name", import_times.ADAPTERS)
@pytest.mark.long
def test_what_is_built_can_be_built(name: str) -> None:
    """The settings whose building is timed are settings that the adapter takes."""
    credential_adapter({"ADAPTER": name, **import_times.ADAPTERS[name]}).close()


def test_first_users_cost_one_fetch() -> None:
    """A hundred threads, and a hundred tasks, that come first cost one fetch."""
    assert credentials.first_users() == {"threads": 1, "tasks": 1}


def test_look_ups_are_timed() -> None:
    """Each kind of look-up has a median, and a lowest that is not above it."""
    for times in credentials.look_ups(3, 10).values():
        assert 0 < times["lowest"] <= times["median"]


@pytest.mark.parametrize(("adapter", "requests"), [("command", 13), ("rds_iam", 0), ("env", 0)])
@pytest.mark.long
def test_an_hour_of_requests(adapter: str, requests: int) -> None:
    """A static value is asked for each five minutes; what needs no store asks none."""
    (case,) = (case for case in store_requests.CASES if case.adapter == adapter)
    row = store_requests.counted(case, 1)
    assert row["requests"] == requests
    assert row["fetches"] >= 1
