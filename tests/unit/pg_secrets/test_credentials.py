from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from pg_secrets import Credentials, Lease

LOGIN = Credentials(user="app", password="hunter2", parameters={"host": "db", "port": 5432})


def test_password_is_not_shown() -> None:
    """The password and the lease's id stand in no repr."""
    credentials = LOGIN.replace(lease=Lease(id="lease-of-hunter3", duration=60.0))
    shown = f"{credentials!r} {credentials} {credentials.lease!r}"
    assert "hunter" not in shown
    assert "app" in shown


@pytest.mark.parametrize("spread", [pickle.dumps, copy.copy, copy.deepcopy])
def test_cannot_be_pickled_or_copied(spread: object) -> None:
    """A snapshot does not leave the process by pickle."""
    assert callable(spread)
    with pytest.raises(TypeError, match="cannot be pickled"):
        spread(LOGIN)


def test_cannot_be_changed() -> None:
    """Neither a field nor a parameter of a snapshot can be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        LOGIN.user = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        LOGIN.parameters["host"] = "other"  # type: ignore[index]


def test_later_changes_of_the_given_mapping_do_not_show() -> None:
    """The parameters are a copy of what was given."""
    given = {"host": "db"}
    credentials = Credentials(parameters=given)
    given["host"] = "elsewhere"
    assert credentials.parameters["host"] == "db"


@pytest.mark.parametrize(
    "change",
    [{"user": "other"}, {"password": "other"}, {"password": None}, {"parameters": {"host": "x"}}],
)
def test_fingerprint_changes_with_the_login(change: dict[str, object]) -> None:
    """Whatever would make a login differ makes the fingerprint differ."""
    assert LOGIN.replace(**change).fingerprint != LOGIN.fingerprint


def test_fingerprint_ignores_what_is_no_login() -> None:
    """Version, expiry, lease, generation and the order of parameters do not count."""
    other = Credentials(
        user="app",
        password="hunter2",
        parameters={"port": 5432, "host": "db"},
        version="7",
        expires_at=1.0,
        generation=3,
    )
    assert other.fingerprint == LOGIN.fingerprint


def test_fingerprint_keeps_fields_apart() -> None:
    """Text that moves from one field to the next makes another fingerprint."""
    first = Credentials(user="a", password="bc")
    assert first.fingerprint != Credentials(user="ab", password="c").fingerprint


def test_connection_params_are_libpq_keywords() -> None:
    """What psycopg gets holds login and parameters, and nothing that is None."""
    assert LOGIN.connection_params() == {
        "user": "app",
        "password": "hunter2",
        "host": "db",
        "port": 5432,
    }
    assert Credentials(user="app").connection_params() == {"user": "app"}
