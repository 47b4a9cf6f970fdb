"""Strict settings: what ``CONFIG`` may hold and what is said when it holds something else."""

from __future__ import annotations

import sys
import types
from typing import Any, ClassVar

import pytest
from channels.layers import BaseChannelLayer
from django.db import connections
from django.db.backends.postgresql import base as postgresql

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.engines import Engine, MemoryEngine, PostgresEngine, django_backend
from channels_pg_secrets.engines.factory import build_engine
from channels_pg_secrets.errors import (
    LayerMisconfigured,
    UnknownSetting,
    UnsuitableAlias,
    UnsuitableEngine,
    WrongValue,
)
from pg_secrets.registry import credential_source


class Lenient(Engine):
    """Declares nothing."""

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        raise NotImplementedError


class Declaring(Lenient):
    """Declares one key."""

    settings: ClassVar[frozenset[str]] = frozenset({"QUEUE_URL"})


class Heir(Declaring):
    """Declares another."""

    settings: ClassVar[frozenset[str]] = frozenset({"REGION"})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("HSOT", "HOST"),
        ("host", "HOST"),
        ("PASSWRD", "PASSWORD"),
        ("prefx", "prefix"),
        ("PREFIX", "prefix"),
        ("CAPACITY", "capacity"),
        ("CREDENTIAL", "CREDENTIALS"),
        ("LISTENER", "LISTEN"),
        ("group_expire", "group_expiry"),
        ("sendtimeout", "send_timeout"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    """A misspelt key is an error that says which key was probably meant."""
    with pytest.raises(UnknownSetting, match=f"Did you mean '{meant}'"):
        ChannelLayer(NAME="db", **{key: "canary"})


def test_the_error_for_an_unknown_key_does_not_show_its_value() -> None:
    """The value of a misspelt PASSWORD is in no message."""
    with pytest.raises(UnknownSetting) as caught:
        ChannelLayer(NAME="db", PASSWORD_="canary")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "replacement"),
    [
        ("PSYCOPG_OPTIONS", "OPTIONS"),
        ("hosts", "HOST"),
        ("serializer_format", "serialize"),
        ("TEST_CONFIG", "beside CONFIG"),
    ],
)
def test_a_peer_s_key_is_recognised(key: str, replacement: str) -> None:
    """The keys of channels_postgres and channels_redis name what replaces them."""
    with pytest.raises(UnknownSetting, match=replacement):
        ChannelLayer(NAME="db", **{key: {}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prefix", ""),
        ("prefix", b"asgi"),
        ("expiry", 0),
        ("expiry", "60"),
        ("expiry", float("nan")),
        ("expiry", float("inf")),
        ("group_expiry", -1),
        ("group_expiry", sys.maxsize),
        ("capacity", 0),
        ("capacity", 1.5),
        ("capacity", True),
        ("capacity", sys.maxsize),
        ("channel_capacity", [("x", 1)]),
        ("channel_capacity", {"x": "1"}),
        ("channel_capacity", {"x": 2**31}),
        ("symmetric_encryption_keys", "canary"),
        ("symmetric_encryption_keys", [1]),
        ("send_timeout", None),
        ("PORT", "postgres"),
        ("PORT", 70000),
        ("HOST", 5),
        ("OPTIONS", "sslmode=require"),
        ("OPTIONS", {1: 2}),
        ("PASSWORD", b"canary"),
        ("TIME_ZONE", 1),
        ("TIME_ZONE", "Mars/Olympus"),
        ("TIME_ZONE", "../../canary"),
        ("TIME_ZONE", "America"),
        ("LISTEN", "db.internal"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_and_not_shown(key: str, value: Any) -> None:
    """The message names the key and what it should be, and shows no text that was found."""
    with pytest.raises(WrongValue, match=f"'{key}' must be") as caught:
        PostgresEngine({"NAME": "db", key: value})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"PORT": 5432},
        {"PORT": "5432"},
        {"PORT": "5432,5433", "HOST": "a,b"},
        {"PORT": "", "HOST": "", "USER": "", "PASSWORD": "", "OPTIONS": {}},
        {"TIME_ZONE": "Europe/Berlin"},
        {"OPTIONS": {"prepare_threshold": 0, "assume_role": None}},
        {"OPTIONS": {"sslmode": "require", "prepare_threshold": None, "assume_role": "owner"}},
        {"expiry": 1e9, "capacity": 2**31 - 1},
        {"expiry": 0.5, "capacity": 1, "channel_capacity": {"http.*": 5}, "prefix": "x"},
        {"symmetric_encryption_keys": ["a", b"b"]},
        {"CONN_MAX_AGE": 60, "ATOMIC_REQUESTS": True, "TEST": {"NAME": "x"}},
        {"LISTEN": {"HOST": "direct", "PORT": 5432, "OPTIONS": {"sslmode": "require"}}},
    ],
)
def test_what_is_documented_is_taken(config: dict[str, Any]) -> None:
    """None of the documented forms is refused."""
    assert PostgresEngine({"NAME": "db", **config}).config == {"NAME": "db", **config}


def test_a_misspelt_option_of_libpq_is_refused() -> None:
    """OPTIONS are checked against the keywords of the libpq in use."""
    with pytest.raises(UnknownSetting, match=r"'sslmod'.*Did you mean 'sslmode'"):
        PostgresEngine({"NAME": "db", "OPTIONS": {"sslmod": "require"}})


def test_a_misspelt_key_of_listen_is_refused() -> None:
    """LISTEN takes connection settings alone."""
    with pytest.raises(UnknownSetting, match=r"'HOSTS'.*Did you mean 'HOST'"):
        PostgresEngine({"NAME": "db", "LISTEN": {"HOSTS": "x"}})
    with pytest.raises(UnknownSetting, match="assume_role"):
        PostgresEngine({"NAME": "db", "LISTEN": {"OPTIONS": {"assume_role": "x"}}})


def test_a_pool_is_refused() -> None:
    """OPTIONS["pool"] makes no sense for a layer and says so."""
    with pytest.raises(LayerMisconfigured, match="pool"):
        PostgresEngine({"NAME": "db", "OPTIONS": {"pool": True}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("assume_role", 5),
        ("prepare_threshold", "abc"),
        ("prepare_threshold", True),
        ("prepare_threshold", -1),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(
    monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    """What the layer itself reads in OPTIONS is looked at before anything is sent, in USING too."""
    with pytest.raises(WrongValue, match=rf"CONFIG\['OPTIONS'\] key '{key}' must be"):
        PostgresEngine({"NAME": "db", "OPTIONS": {key: value}})
    alias = {**connections.settings["default"], "OPTIONS": {key: value}}
    monkeypatch.setitem(connections.settings, "wrong", alias)
    with pytest.raises(WrongValue, match=rf"DATABASES\['wrong'\]\['OPTIONS'\] key '{key}'"):
        PostgresEngine({"USING": "wrong"})


def test_the_alias_of_using_is_checked_by_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in DATABASES is named with its alias."""
    alias = {**connections.settings["default"], "TIME_ZONE": "Mars/Olympus"}
    monkeypatch.setitem(connections.settings, "wrong", alias)
    with pytest.raises(WrongValue, match=r"DATABASES\['wrong'\] key 'TIME_ZONE' must be"):
        PostgresEngine({"USING": "wrong"})


def test_using_an_unknown_alias_names_the_nearest() -> None:
    """A misspelt alias is an error with the aliases there are."""
    with pytest.raises(UnsuitableAlias, match=r"Did you mean 'default'\? Aliases: default, leased"):
        PostgresEngine({"USING": "defualt"})


def test_using_goes_with_no_settings_of_its_own() -> None:
    """USING and HOST together are refused, as one of them would be ignored."""
    with pytest.raises(UnsuitableAlias, match="USING and also HOST, PASSWORD"):
        PostgresEngine({"USING": "default", "HOST": "x", "PASSWORD": "canary"})


def test_using_an_alias_of_another_database_is_refused() -> None:
    """An alias on SQLite cannot carry a layer."""
    with pytest.raises(UnsuitableAlias, match=r"'lite'.*'sqlite'"):
        PostgresEngine({"USING": "lite"})


def test_an_engine_that_is_not_the_alias_s_is_refused() -> None:
    """ENGINE beside USING would drop the alias's CREDENTIALS, and is an error that shows both."""
    with pytest.raises(
        UnsuitableAlias, match=r"'django.db.backends.postgresql'.*'channels_pg_secrets.db"
    ):
        ChannelLayer(USING="leased", ENGINE="django.db.backends.postgresql")
    assert ChannelLayer(USING="leased", ENGINE="channels_pg_secrets.db.postgresql")
    assert ChannelLayer(USING="leased", ENGINE="postgresql")


def test_credentials_beside_using_go_before_those_of_the_alias() -> None:
    """A layer may log in as somebody else than the ORM does."""
    credentials = {"ADAPTER": "env", "URL": "OTHER_URL"}
    engine = build_engine({"USING": "leased", "CREDENTIALS": credentials})
    assert isinstance(engine, PostgresEngine)
    assert engine.source is credential_source(credentials)


def test_an_engine_that_declares_its_keys_is_strict() -> None:
    """Keys declared by the class and its bases are taken; no others are."""
    assert Heir({"QUEUE_URL": 1, "REGION": 2, "expiry": 3}).config["REGION"] == 2
    with pytest.raises(UnknownSetting, match="'ZONE' is not known to engine 'Heir'"):
        Heir({"ZONE": 1})


def test_an_engine_that_declares_nothing_takes_what_is_not_a_misspelling() -> None:
    """A key of its own passes; one that looks like a known key misspelt does not."""
    assert Lenient({"QUEUE_URL": 1}).config == {"QUEUE_URL": 1}
    with pytest.raises(UnknownSetting, match="Did you mean 'expiry'"):
        Lenient({"expriy": 1})


def test_a_subclass_of_the_postgresql_engine_may_have_keys_of_its_own() -> None:
    """Without a declaration they pass, with one the others are refused."""

    class Open(PostgresEngine):
        pass

    class Closed(PostgresEngine):
        settings: ClassVar[frozenset[str]] = frozenset({"TENANT"})

    assert Open({"NAME": "db", "TENANT": "a"}).config["TENANT"] == "a"
    assert Closed({"NAME": "db", "TENANT": "a"}).config["TENANT"] == "a"
    with pytest.raises(UnknownSetting):
        Closed({"NAME": "db", "OTHER_KEY": "a"})


def test_a_key_of_one_s_own_may_be_in_lower_case(
    foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine or a backend declares is not handed to the layer; what nobody knows is."""

    class Closed(PostgresEngine):
        settings: ClassVar[frozenset[str]] = frozenset({"tenant"})

    monkeypatch.setattr(Foreign, "channel_layer_settings", frozenset({"tenant"}), raising=False)
    for engine in (Closed, foreign):
        assert ChannelLayer(ENGINE=engine, NAME="db", tenant="a", capacity=7).capacity == 7
    with pytest.raises(TypeError, match="prefx"):
        PostgresEngine({"NAME": "db"}).channel_layer(prefx="a")


def test_the_engine_of_a_direct_construction_must_be_a_backend() -> None:
    """PostgresEngine({"ENGINE": ...}) knows Django backends and nothing else."""
    with pytest.raises((UnsuitableEngine, LayerMisconfigured), match="no Django database backend"):
        PostgresEngine({"NAME": "db", "ENGINE": "memory"})


@pytest.mark.parametrize("engine", [PostgresEngine, MemoryEngine])
def test_settings_are_not_shown(engine: type[Engine]) -> None:
    """Neither the engine's repr nor that of its settings contains the password."""
    built = engine({"NAME": "db", "PASSWORD": "canary"})
    assert "canary" not in repr(built) + repr(built.config) + str(vars(built))


def test_the_memory_engine_takes_the_same_settings() -> None:
    """Changing ENGINE to memory in a complete CONFIG is enough, and its capacities work."""
    layer = ChannelLayer(
        ENGINE="memory",
        NAME="db",
        HOST="h",
        CREDENTIALS={"ADAPTER": "no-such-adapter"},
        prefix="x",
        expiry=5,
        group_expiry=50,
        capacity=3,
        channel_capacity={"http.*": 1},
        send_timeout=1,
        symmetric_encryption_keys=["k"],
    )
    assert (layer.expiry, layer.group_expiry, layer.capacity) == (5, 50, 3)
    assert (layer.get_capacity("http.request"), layer.get_capacity("other")) == (1, 3)


def test_the_memory_engine_refuses_misspelt_settings() -> None:
    """It is as strict as the PostgreSQL engine."""
    with pytest.raises(UnknownSetting, match="capacity"):
        ChannelLayer(ENGINE="memory", capcity=3)


@pytest.mark.parametrize("config", [{}, {"HOST": "db"}, {"OPTIONS": {"sslmode": "require"}}])
def test_a_database_must_be_named(config: dict[str, Any]) -> None:
    """Without NAME, service, USING or credentials the layer is refused before anything is sent."""
    with pytest.raises(LayerMisconfigured, match="'NAME' is missing"):
        ChannelLayer(**config)
    assert PostgresEngine({**config, "OPTIONS": {"service": "chat"}})
    assert ChannelLayer(**config, CREDENTIALS={"ADAPTER": "env", "URL": "DATABASE_URL"})


def test_an_engine_with_parameters_of_its_own_needs_no_name() -> None:
    """Whoever overrides connection_params() may name the database there."""

    class Own(PostgresEngine):
        def connection_params(self) -> dict[str, Any]:
            return {"dbname": "x"}

    assert Own({})


class Foreign(postgresql.DatabaseWrapper):
    """A third party's backend, which has an option of its own."""

    channel_layer_settings: ClassVar[frozenset[str]]

    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "sslmod": "x", "dialect": "y"}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend that is neither Django's nor ours."""
    module = types.ModuleType("thirdparty.base")
    module.DatabaseWrapper = Foreign  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "thirdparty", types.ModuleType("thirdparty"))
    monkeypatch.setitem(sys.modules, "thirdparty.base", module)
    return "thirdparty"


@pytest.mark.parametrize("key", ["PSYCOPG_OPTIONS", "hosts", "connection_kwargs"])
def test_a_peer_s_key_is_recognised_whoever_s_the_backend(foreign: str, key: str) -> None:
    """A third party's backend may read keys of its own, but not those of channels_postgres."""
    with pytest.raises(UnknownSetting, match="key"):
        ChannelLayer(ENGINE=foreign, NAME="db", **{key: {}})
    assert ChannelLayer(ENGINE=foreign, NAME="db", TENANT="a")


def test_an_engine_that_knows_no_host_may_have_hosts() -> None:
    """The keys of peers are refused only where what replaces them would be taken."""
    assert Lenient({"hosts": []}).config == {"hosts": []}


def test_a_misspelt_option_is_refused_whoever_s_the_backend(
    foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sslmod is refused for a third party's backend unless the backend declares it."""
    config = {"ENGINE": foreign, "NAME": "db", "OPTIONS": {"sslmod": "require", "dialect": "y"}}
    with pytest.raises(UnknownSetting, match=r"'sslmod'.*Did you mean 'sslmode'"):
        PostgresEngine(config)
    declared = frozenset({"sslmod"})
    monkeypatch.setattr(Foreign, "channel_layer_settings", declared, raising=False)
    assert PostgresEngine(config)


def test_what_libpq_does_not_know_is_left_out_with_one_warning(
    foreign: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A parameter that no connection gets is named once, unless the backend declares it."""
    django_backend.warn_of.cache_clear()
    monkeypatch.setattr(Foreign, "channel_layer_settings", frozenset({"dialect"}), raising=False)
    engine = PostgresEngine({"ENGINE": foreign, "NAME": "db"})
    for _ in range(3):
        assert "sslmod" not in engine.connection_params()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "'sslmod'" in record.getMessage()
