"""System checks: every mistake has an id and a hint, and nothing is asked of anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.db import connections
from django.test import override_settings
from django.test.utils import modify_settings

from channels_pg_secrets.checks import check_databases, check_layers, check_tables
from channels_pg_secrets.db.postgresql.settings import check_settings
from channels_pg_secrets.errors import DatabaseMisconfigured

ENV = {"ADAPTER": "env", "PASSWORD": "SOME_VARIABLE"}


def found(config: Any, **alias: Any) -> list[checks.CheckMessage]:
    """Return what the checks say of one alias."""
    layers = {"default": {"BACKEND": "channels_pg_secrets.ChannelLayer", "CONFIG": config, **alias}}
    with override_settings(CHANNEL_LAYERS=layers):
        return check_layers()


@pytest.mark.parametrize(
    ("config", "number", "text"),
    [
        ({"ENGINE": "memroy"}, "E001", "memroy"),
        ({"NAME": "db", "HSOT": "x"}, "E002", "HSOT"),
        ({"NAME": "db", "PSYCOPG_OPTIONS": {}}, "E002", "OPTIONS"),
        ({"NAME": "db", "hosts": []}, "E002", "HOST"),
        ({"NAME": "db", "connection_kwargs": {}}, "E002", "OPTIONS"),
        ({"NAME": "db", "TEST_CONFIG": {}}, "E002", "beside CONFIG"),
        ({"NAME": "db", "expiry": "60"}, "E003", "expiry"),
        ({"NAME": "db", "OPTIONS": {"pool": True}}, "E003", "keeps no pool"),
        (None, "E003", "must be a dict"),
        ({"NAME": "db", "CREDENTIALS": "vualt"}, "E005", "vault"),
        ({"NAME": "db", "CREDENTIALS": {"ADAPTER": "env", "PASWORD": "X"}}, "E005", "PASSWORD"),
        ({"NAME": "db", "CREDENTIALS": {}}, "E005", "ADAPTER"),
        ({"ENGINE": "django.db.backends.sqlite3", "NAME": "db"}, "E007", "sqlite"),
        ({"ENGINE": "needs_something", "NAME": "db"}, "E007", "no_such_driver"),
        ({"ENGINE": "needs_something.engine.X", "NAME": "db"}, "E007", "no_such_driver"),
        ({"USING": "lite"}, "E008", "on a PostgreSQL server"),
        ({"USING": "nowhere"}, "E008", "nowhere"),
        ({"USING": "default", "HOST": "x"}, "E008", "HOST"),
    ],
)
def test_each_mistake_has_an_id_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, number: str, text: str
) -> None:
    """The message names the setting, the alias it stands in, and the way out."""
    (tmp_path / "needs_something").mkdir()
    for name in ("base", "engine"):
        (tmp_path / "needs_something" / f"{name}.py").write_text("import no_such_driver\n")
    monkeypatch.syspath_prepend(tmp_path)
    (message,) = found(config)
    assert message.id == f"channels_pg_secrets.{number}"
    assert message.level == checks.ERROR
    assert text in f"{message.msg} {message.hint}"
    assert message.hint
    assert ".." not in message.msg
    assert str(message.obj).startswith("CHANNEL_LAYERS['default']")


@pytest.mark.parametrize("config", [{"ENGINE": "memroy"}, {"NAME": "db", "HSOT": "x"}])
def test_test_config_is_checked_as_well(config: Any) -> None:
    """A mistake in TEST_CONFIG is found where CONFIG is right."""
    (message,) = found({"NAME": "db"}, TEST_CONFIG=config)
    assert message.obj == "CHANNEL_LAYERS['default']['TEST_CONFIG']"


def test_engines_that_disagree_are_e004() -> None:
    """ENGINE in two places with two values has an id of its own."""
    (message,) = found({"ENGINE": "postgresql", "NAME": "db"}, ENGINE="memory")
    assert message.id == "channels_pg_secrets.E004"


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter whose SDK is not installed is E006 with the extra to install."""
    monkeypatch.setitem(__import__("sys").modules, "hvac", None)
    credentials = {
        "ADAPTER": "vault",
        "ADDRESS": "http://127.0.0.1:8200",
        "ROLE": "app",
        "AUTH": {"METHOD": "token", "TOKEN": "canary"},
    }
    (message,) = found({"NAME": "db", "CREDENTIALS": credentials})
    assert message.id == "channels_pg_secrets.E006"
    assert "pip install" in message.msg
    assert "channels-pg-secrets[vault]" in message.msg
    assert "canary" not in str(message)


def test_a_missing_engine_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose package is not installed is E006 with the extra to install."""
    monkeypatch.setitem(__import__("sys").modules, "channels_redis", None)
    (message,) = found({"ENGINE": "redis"})
    assert message.id == "channels_pg_secrets.E006"
    assert "channels-pg-secrets[redis]" in str(message.hint)


def test_encryption_without_cryptography_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """symmetric_encryption_keys need the extra crypto."""
    monkeypatch.setitem(__import__("sys").modules, "cryptography.fernet", None)
    for config in ({"NAME": "db"}, {"ENGINE": "redis"}):
        (message,) = found({**config, "symmetric_encryption_keys": ["canary"]})
        assert message.id == "channels_pg_secrets.E006"
        assert "channels-pg-secrets[crypto]" in f"{message.msg} {message.hint}"
        assert "canary" not in str(message)
    assert found({"ENGINE": "memory", "symmetric_encryption_keys": ["canary"]}) == []


def test_settings_without_effect_are_a_warning() -> None:
    """What belongs to the ORM alone is taken and reported."""
    (message,) = found(
        {"NAME": "db", "CONN_MAX_AGE": 60, "OPTIONS": {"isolation_level": 1, "row_factory": 1}}
    )
    assert message.id == "channels_pg_secrets.W002"
    assert "CONN_MAX_AGE, OPTIONS['isolation_level'], OPTIONS['row_factory']" in message.msg


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"NAME": "db", "PASSWORD": "canary"}, "PASSWORD is given"),
        ({"NAME": "db", "OPTIONS": {"password": "canary"}}, "OPTIONS['password'] is given"),
        ({"ENGINE": "redis", "PASSWORD": "canary"}, "PASSWORD is given"),
    ],
)
def test_a_password_beside_credentials_is_a_warning(more: dict[str, Any], text: str) -> None:
    """The password that is not used is reported and not shown."""
    (message,) = found({"CREDENTIALS": ENV, **more})
    assert message.id == "channels_pg_secrets.W003"
    assert text in message.msg
    assert "canary" not in str(message)


@modify_settings(INSTALLED_APPS={"remove": "channels_pg_secrets"})
def test_a_layer_of_ours_without_the_app_is_a_warning() -> None:
    """BACKEND alone works, but migrate would not find the migrations."""
    (message,) = found({"NAME": "db"})
    assert message.id == "channels_pg_secrets.W001"
    assert "INSTALLED_APPS" in str(message.hint)


@pytest.mark.parametrize(
    "config",
    [
        {"NAME": "db", "CREDENTIALS": ENV},
        {"USING": "default"},
        {"USING": "leased", "expiry": 10},
        {"ENGINE": "memory"},
        {"ENGINE": "redis", "HOST": "r", "LAYER": "pubsub", "CREDENTIALS": ENV},
        {"ENGINE": "channels.layers.InMemoryChannelLayer"},
    ],
)
def test_right_settings_are_silent(config: Any) -> None:
    """No check complains about what is documented."""
    assert found(config) == []


def failing(config: Any, credentials: Any) -> Any:
    raise KeyError("canary")


def test_an_engine_that_fails_is_one_message() -> None:
    """An exception of a custom engine is E007, and check --database does not end with it."""
    (message,) = found({"ENGINE": failing})
    assert message.id == "channels_pg_secrets.E007"
    assert "KeyError in failing" in message.msg
    assert "canary" not in str(message)
    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": {"ENGINE": failing}}}):
        assert check_tables(databases=["default"]) == []


@pytest.mark.parametrize("layers", [None, {"default": "channels_pg_secrets.ChannelLayer"}])
def test_what_is_no_dict_is_one_message(layers: Any) -> None:
    """CHANNEL_LAYERS or an alias that is no dict is an error, and crashes no check."""
    with override_settings(CHANNEL_LAYERS=layers):
        (message,) = check_layers()
        assert check_tables(databases=["default"]) == []
    assert message.id == "channels_pg_secrets.E003"
    assert "must be a dict" in message.msg


def test_other_backends_are_none_of_our_business() -> None:
    """Aliases of others are not looked at, however odd."""
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "a.b", "CONFIG": {"hosts": 1}}}):
        assert check_layers() == []


def test_the_databases_of_the_test_project_are_right() -> None:
    """An alias with our backend and CREDENTIALS raises no complaint."""
    assert check_databases() == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"CREDENTIAL": "env"}, "Did you mean 'CREDENTIALS'"),
        ({}, "has no CREDENTIALS"),
        ({"CREDENTIALS": "env", "OPTIONS": {"pool": True}}, "pool"),
    ],
)
def test_a_database_that_cannot_work_is_refused(change: dict[str, Any], text: str) -> None:
    """Each mistake in DATABASES is named with the alias it is in."""
    with pytest.raises(DatabaseMisconfigured, match=text) as caught:
        check_settings({"ENGINE": "x", "NAME": "db", "OPTIONS": {}, **change}, "default")
    assert "DATABASES['default']" in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "ids"),
    [
        ("django.db.backends.postgresql", ["channels_pg_secrets.W004"]),
        ("django.contrib.gis.db.backends.postgis", ["channels_pg_secrets.W004"]),
        ("myproject.db", []),
    ],
)
def test_credentials_that_an_engine_of_django_s_ignores_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, engine: str, ids: list[str]
) -> None:
    """Django lets any key pass; CREDENTIALS beside its own ENGINE are W004, a third party's not."""
    alias = {**connections.settings["default"], "ENGINE": engine, "CREDENTIALS": ENV}
    monkeypatch.setitem(connections.settings, "plain", alias)
    messages = check_databases()
    assert [message.id for message in messages] == ids
    assert all("channels_pg_secrets.db.postgresql" in str(message.hint) for message in messages)


@pytest.mark.parametrize("change", [{"CREDENTIALS": "vualt"}, {"TIME_ZONE": "Mars/Olympus"}])
def test_a_mistake_in_an_alias_is_said_once(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """What is wrong in DATABASES is reported there, and not again for each layer that uses it."""
    alias = {**connections.settings["leased"], **change}
    monkeypatch.setitem(connections.settings, "leased", alias)
    (message,) = [*check_databases(), *found({"USING": "leased"}), *found({"USING": "leased"})]
    assert message.obj == "DATABASES['leased']"
    assert found({"USING": "leased", "HOST": "x"})


def test_nothing_is_asked_without_a_database() -> None:
    """The check of tables runs only where manage.py was told a database."""
    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": {"NAME": "x", "HOST": "h"}}}):
        assert check_tables(databases=None) == []
        assert check_tables(databases=[]) == []
    registered = checks.registry.registry.get_checks()
    assert check_layers in registered
    assert check_tables in registered
    assert check_tables.tags == (checks.Tags.database,)
