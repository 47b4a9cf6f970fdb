"""What ``CONFIG`` may hold for the Redis engine, and what is made of it."""

from __future__ import annotations

import sys
from inspect import signature
from typing import Any

import pytest
from redis.asyncio import connection as plain

from channels_pg_secrets import ChannelLayer
from channels_pg_secrets.engines import RedisEngine
from channels_pg_secrets.engines.factory import build_engine
from channels_pg_secrets.engines.registry import find_engine
from channels_pg_secrets.errors import (
    LayerMisconfigured,
    MissingPackage,
    UnknownSetting,
    WrongValue,
)

ENV = {"ADAPTER": "env", "USERNAME": "REDIS_USER", "PASSWORD": "REDIS_PASSWORD"}


def keywords(**config: Any) -> dict[str, Any]:
    """Return what redis-py is given for the only server of a layer."""
    (found,) = ChannelLayer(ENGINE="redis", **config).hosts
    return dict(found)


def test_it_comes_through_its_entry_point() -> None:
    """``ENGINE = "redis"`` is found without being registered."""
    assert find_engine("redis").engine is RedisEngine


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without channels_redis the error says what to install."""
    monkeypatch.setitem(sys.modules, "channels_redis", None)
    with pytest.raises(MissingPackage, match=r"pip install 'channels-pg-secrets\[redis\]'"):
        ChannelLayer(ENGINE="redis")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("HSOT", "HOST"), ("LAYERS", "LAYER"), ("host", "HOST"), ("expriy", "expiry")],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str) -> None:
    """A misspelt key is an error that says which key was probably meant."""
    with pytest.raises(UnknownSetting, match=f"Did you mean '{meant}'"):
        ChannelLayer(ENGINE="redis", **{key: "canary"})


@pytest.mark.parametrize("key", ["USING", "LISTEN", "TIME_ZONE", "CONN_MAX_AGE", "send_timeout"])
def test_settings_of_postgresql_alone_are_refused(key: str) -> None:
    """No key of the other engine is ignored."""
    with pytest.raises(UnknownSetting, match=f"'{key}' is not known to engine 'RedisEngine'"):
        ChannelLayer(ENGINE="redis", **{key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LAYER", "pub/sub"),
        ("HOST", 5),
        ("PORT", "6379,6380"),
        ("PORT", 70000),
        ("PORT", "canary"),
        ("NAME", "canary"),
        ("NAME", -1),
        ("NAME", True),
        ("PASSWORD", b"canary"),
        ("OPTIONS", "canary"),
        ("hosts", "redis://:canary@localhost"),
        ("hosts", []),
        ("expiry", 0.5),
        ("group_expiry", 1.5),
        ("capacity", 0),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_and_not_shown(key: str, value: Any) -> None:
    """The message names the key and what it should be, and shows no text that was found."""
    with pytest.raises(WrongValue, match=f"'{key}' must be") as caught:
        ChannelLayer(ENGINE="redis", **{key: value})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("host", [5, ("only",), {1: 2}, "canary://host", "redis://:canary@h:p"])
def test_a_host_of_the_wrong_kind_is_named_and_not_shown(host: Any) -> None:
    """The message says which entry of ``hosts`` it is."""
    with pytest.raises(WrongValue, match=r"'hosts\[1\]' must be") as caught:
        ChannelLayer(ENGINE="redis", hosts=["redis://localhost", host])
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"HOST": "r", "PORT": "6380", "NAME": "2"}, {"host": "r", "port": 6380, "db": 2}),
        ({"HOST": "", "PORT": "", "NAME": ""}, {}),
        ({"HOST": "/run/redis.sock"}, {"path": "/run/redis.sock"}),
        ({"OPTIONS": {"client_name": "chat"}}, {"client_name": "chat"}),
        ({"hosts": ["redis://r:6380/2"]}, {"host": "r", "port": 6380, "db": 2}),
        ({"hosts": [("r", 6380)]}, {"host": "r", "port": 6380}),
        ({"hosts": [{"host": "r", "port": 6380}]}, {"host": "r", "port": 6380}),
        ({"hosts": [{"address": "redis://r", "db": 1}]}, {"host": "r", "db": 1}),
        (
            {"hosts": [{"sentinels": [("s", 26379)], "master_name": "m"}]},
            {"sentinels": [("s", 26379)], "master_name": "m"},
        ),
    ],
)
def test_every_form_of_a_server_is_taken(config: dict[str, Any], expected: dict[str, Any]) -> None:
    """What is documented arrives as redis-py's keywords, beside our own."""
    found = keywords(**config)
    ours = {"connection_class", "logins", "protocol", "socket_timeout", "socket_connect_timeout"}
    patient = found.pop("sentinel_kwargs", None)
    assert {key: value for key, value in found.items() if key not in ours} == expected
    assert (patient is None) == ("sentinels" not in expected)
    if patient is not None:
        assert (patient["socket_timeout"], patient["socket_connect_timeout"]) == (5.0, 5.0)
    assert found.keys() >= ours


@pytest.mark.parametrize(
    ("config", "base"),
    [
        ({}, plain.Connection),
        ({"OPTIONS": {"ssl": True}}, plain.SSLConnection),
        ({"OPTIONS": {"ssl_ca_certs": "/etc/ca.pem"}}, plain.SSLConnection),
        ({"hosts": ["rediss://r"]}, plain.SSLConnection),
        ({"HOST": "/run/redis.sock"}, plain.UnixDomainSocketConnection),
    ],
)
def test_tls_is_used_where_it_is_asked_for(config: dict[str, Any], base: type[Any]) -> None:
    """A certificate or the address's scheme is enough; the connection follows in any case."""
    found = keywords(**config)["connection_class"]
    assert issubclass(found, base)
    assert issubclass(found, plain.SSLConnection) == (base is plain.SSLConnection)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"OPTIONS": {"socket_timeuot": 9}}, "Did you mean 'socket_timeout'"),
        ({"OPTIONS": {"password": "canary"}}, "beside OPTIONS"),
        ({"OPTIONS": {"credential_provider": 1}}, "no keyword"),
        ({"hosts": [{"hots": "canary"}]}, "Did you mean 'host'"),
        ({"hosts": ["redis://r?client_nmae=x"]}, "Did you mean 'client_name'"),
        ({"hosts": ["redis://r"], "HOST": "r"}, "'hosts' and also HOST"),
        ({"hosts": ["redis://:canary@r"], "CREDENTIALS": ENV}, "login of its own"),
        ({"HOST": "/run/redis.sock", "PORT": 6379}, "HOST is the path"),
        ({"OPTIONS": {"socket_timeout": 5}}, "socket_timeout of 5 seconds"),
        ({"OPTIONS": {"socket_timeout": "20"}}, "OPTIONS key 'socket_timeout' must be a number"),
        ({"OPTIONS": {"max_connections": "five"}}, "'max_connections' must be a number above 0"),
        ({"OPTIONS": {"retry": 3}}, "'retry' must be a redis.asyncio.retry.Retry"),
        ({"hosts": [{"port": "canary"}]}, r"hosts\[0\] key 'port' must be a port number"),
        ({"hosts": [("r", 0)]}, "'port' must be a port number"),
        ({"hosts": [{"db": -1}]}, "'db' must be the number of a database"),
        ({"hosts": [{"sentinels": [("s", 1)]}]}, "'sentinels' without 'master_name'"),
        ({"hosts": [{"master_name": "m"}]}, "'master_name' without 'sentinels'"),
        ({"hosts": [{"sentinels": "canary", "master_name": "m"}]}, "a list of pairs"),
        ({"hosts": [{"sentinels": [("s", "canary")], "master_name": "m"}]}, "a list of pairs"),
        ({"LAYER": "pubsub", "capacity": 5}, "'capacity' means nothing"),
        ({"LAYER": "pubsub", "expiry": 5}, "'expiry' means nothing"),
    ],
)
def test_what_cannot_work_is_refused(config: dict[str, Any], said: str) -> None:
    """The error says which setting it is and what to do, and shows no secret."""
    with pytest.raises(LayerMisconfigured, match=said) as caught:
        build_engine({"ENGINE": "redis", **config})
    assert "canary" not in str(caught.value)


def test_the_layer_s_own_settings_reach_it() -> None:
    """Prefix, times and capacities are those of CONFIG, and expiries whole numbers."""
    layer = ChannelLayer(
        ENGINE="redis",
        prefix="chat",
        expiry=5.0,
        group_expiry=50,
        capacity=3,
        channel_capacity={"http.*": 1},
    )
    assert (layer.prefix, layer.group_expiry, layer.capacity) == ("chat", 50, 3)
    assert repr(layer.expiry) == "5"
    assert layer.get_capacity("http.request") == 1


@pytest.mark.parametrize("layer", ["core", "pubsub"])
@pytest.mark.parametrize(
    "config",
    [
        {"USER": "app", "PASSWORD": "canary"},
        {"hosts": ["redis://app:canary@r", {"host": "r", "password": "canary"}]},
        pytest.param(
            {"OPTIONS": {"ssl_password": "canary"}},
            marks=pytest.mark.skipif(
                "ssl_password" not in signature(plain.SSLConnection.__init__).parameters,
                reason="this redis-py has no such keyword",
            ),
        ),
        {
            "hosts": [
                {
                    "sentinels": [("s", 1)],
                    "master_name": "m",
                    "sentinel_kwargs": {"password": "canary"},
                }
            ]
        },
    ],
)
def test_settings_are_not_shown(layer: str, config: dict[str, Any]) -> None:
    """Neither the engine nor the layer, which prints its hosts, shows a password."""
    whole = {"ENGINE": "redis", "LAYER": layer, **config}
    engine, made = build_engine(whole), ChannelLayer(**whole)
    shown = f"{engine} {vars(engine)} {made!r} {vars(made)}"
    if layer == "core":
        shown += str(made)
    assert "canary" not in shown
