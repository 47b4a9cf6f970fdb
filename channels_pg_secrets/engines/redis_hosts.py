"""From ``CONFIG`` to what channels_redis makes connections of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from channels_redis.core import RedisChannelLayer
from redis.asyncio import connection as plain
from redis.asyncio import sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from channels_pg_secrets.config import check_database_settings, wrong
from channels_pg_secrets.engines.redis_connection import following
from channels_pg_secrets.engines.redis_logins import Logins
from channels_pg_secrets.errors import LayerMisconfigured, UnknownSetting
from channels_pg_secrets.guarded import GuardedDict
from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.options import nearest
from pg_secrets.source import CredentialSource

#: Where and as whom, in ``hosts``; ``CONFIG`` has keys of its own for these.
_PLACE = frozenset({"address", "host", "port", "path", "db", "username", "password"})
_SENTINEL = frozenset({"sentinels", "master_name", "sentinel_kwargs"})
#: What each keyword of a connection has to be, where redis-py would say so only when it connects,
#: without its name and perhaps with its value.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "port": (lambda value: _whole(value) and 0 < int(value) < 65536, "a port number"),
    "db": (lambda value: _whole(value), "the number of a database"),
    "max_connections": (lambda value: _whole(value) and int(value) > 0, "a number above 0"),
    "socket_timeout": (lambda value: _seconds(value), "a number of seconds, or None"),
    "socket_connect_timeout": (lambda value: _seconds(value), "a number of seconds, or None"),
    "retry": (lambda value: isinstance(value, Retry), "a redis.asyncio.retry.Retry"),
    "master_name": (lambda value: isinstance(value, str) and bool(value), "a name"),
    "sentinels": (lambda value: _pairs(value), "a list of pairs of host and port"),
    "sentinel_kwargs": (lambda value: isinstance(value, Mapping), "a dict"),
}
_TO_REDIS = {"HOST": "host", "PORT": "port", "NAME": "db", "USER": "username"}
#: Every wait has an end, and a receiver's must be longer than channels_redis lets Redis wait.
_RECEIVE = float(RedisChannelLayer.brpop_timeout)
_DEFAULTS = {"socket_connect_timeout": 5.0, "socket_timeout": _RECEIVE + 5.0}
_SENTINEL_DEFAULTS = {"socket_connect_timeout": 5.0, "socket_timeout": 5.0}


class GivenLogin(CredentialAdapter):
    """``USER`` and ``PASSWORD`` of the settings: a store that always says the same."""

    name = "settings"

    def __init__(self, user: str | None, password: str | None) -> None:
        self._credentials = Credentials(user=user, password=password)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GivenLogin:
        return cls(config.get("USER"), config.get("PASSWORD"))

    def fetch(self) -> Credentials:
        return self._credentials


def connection_keywords(
    config: Mapping[str, Any], source: CredentialSource | None, *, patience: float, core: bool
) -> list[GuardedDict]:
    """Return one dict of redis-py's keywords for each server.

    ``source`` goes before logins in the settings. ``patience`` is in seconds; ``core`` says
    whether they are for channels_redis' core layer.

    Raises:
        LayerMisconfigured: a setting is wrong.
    """
    entries = _listed(config) if "hosts" in config else [_single(config)]
    found = []
    for where, entry in entries:
        _check_entry(where, entry, core=core)
        user, password = entry.pop("username", None), entry.pop("password", None)
        if source is None:
            login = CredentialSource(GivenLogin(user, password), background=False)
            logins = Logins(login, given=True)
        elif (user or password) and "hosts" in config:
            raise LayerMisconfigured(
                f"CONFIG has CREDENTIALS, and {where} has a login of its own.",
                hint="Leave one or the other out.",
            )
        else:
            logins = Logins(source, user, password, patience)
        found.append(_complete(entry, logins))
    return found


def _single(config: Mapping[str, Any]) -> tuple[str, GuardedDict]:
    """Return the one server that ``HOST`` and its like describe."""
    check_database_settings({key: value for key, value in config.items() if key != "NAME"})
    number = config.get("NAME")
    if number not in (None, "") and not (_whole(number) and int(number) >= 0):
        raise wrong("NAME", number, "the number of a database")
    port = config.get("PORT")
    if port not in (None, "") and not _whole(port):
        raise wrong("PORT", port, "one port number")
    entry = GuardedDict(
        (_TO_REDIS[key], config[key]) for key in _TO_REDIS if config.get(key) not in (None, "")
    )
    entry.update((key, int(entry[key])) for key in ("port", "db") if key in entry)
    if str(entry.get("host", "")).startswith("/"):
        # As libpq has it: the path of a socket is where it is.
        entry["path"] = entry.pop("host")
        if "port" in entry:
            raise LayerMisconfigured(
                "CONFIG has PORT, and HOST is the path of a socket.", hint="Leave PORT out."
            )
    if config.get("PASSWORD"):
        entry["password"] = config["PASSWORD"]
    for key, value in (config.get("OPTIONS") or {}).items():
        if key in _PLACE:
            raise UnknownSetting(
                f"CONFIG key 'OPTIONS' has {key!r}.",
                hint="HOST, PORT, NAME, USER and PASSWORD are beside OPTIONS; several servers go"
                " into 'hosts'.",
            )
        entry[key] = value
    return "OPTIONS", entry


def _whole(value: object) -> bool:
    return not isinstance(value, bool) and str(value).isdecimal()


def _seconds(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and float(value) > 0)  # type: ignore[arg-type]


def _pairs(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and _whole(pair[1]) for pair in value
        )
    )


def _listed(config: Mapping[str, Any]) -> list[tuple[str, GuardedDict]]:
    """Return the servers of ``hosts``, in each form that channels_redis takes."""
    both = sorted({"HOST", "PORT", "NAME", "USER", "PASSWORD", "OPTIONS"} & config.keys())
    if both:
        raise LayerMisconfigured(
            f"CONFIG has 'hosts' and also {', '.join(both)}.",
            hint="Give all of it in 'hosts', or one server without 'hosts'.",
        )
    hosts = config["hosts"]
    if not isinstance(hosts, (list, tuple)) or not hosts:
        raise wrong("hosts", hosts, "a list of servers that is not empty")
    return [(f"hosts[{index}]", _entry(host, index)) for index, host in enumerate(hosts)]


def _entry(host: object, index: int) -> GuardedDict:
    if isinstance(host, str):
        return _from_address(host, index)
    if isinstance(host, (list, tuple)) and len(host) == 2:
        return GuardedDict(host=host[0], port=host[1])
    if not isinstance(host, Mapping) or not all(isinstance(key, str) for key in host):
        raise wrong(f"hosts[{index}]", host, "an address, a pair of host and port, or a dict")
    entry = GuardedDict(host)
    if "address" in entry:
        # As channels_redis has it: what the address says goes before.
        entry.update(_from_address(entry.pop("address"), index))
    return entry


def _from_address(address: object, index: int) -> GuardedDict:
    parsed: Any = None
    # The error's text may hold a part of the password.
    with suppress(TypeError, ValueError):
        parsed = plain.parse_url(str(address))
    if parsed is None:
        raise wrong(f"hosts[{index}]", address, "a redis://, rediss:// or unix:// address")
    entry = GuardedDict(parsed)
    if entry.pop("connection_class", None) is plain.SSLConnection:
        entry["ssl"] = True
    return entry


def _check_entry(where: str, entry: GuardedDict, *, core: bool) -> None:
    known = _keywords(_connection_class(entry, remove=False)) | {"ssl", "max_connections"}
    if "master_name" in entry or "sentinels" in entry:
        known |= _SENTINEL
    for key in entry:
        if key not in known:
            close = nearest(key, known - _PLACE if where == "OPTIONS" else known)
            raise UnknownSetting(
                f"CONFIG key {where!r} has {key[:50]!r}, which is no keyword for such a connection"
                " of redis-py.",
                hint=f"Did you mean {close!r}?" if close else "",
            )
    for key in entry.keys() & _RULES.keys():
        right, expected = _RULES[key]
        if not right(entry[key]):
            raise wrong(key, entry[key], expected, where=where)
    for key, other in (("sentinels", "master_name"), ("master_name", "sentinels")):
        if key in entry and other not in entry:
            raise LayerMisconfigured(
                f"{where} has {key!r} without {other!r}.",
                hint="A server behind Sentinel is given by both.",
            )
    seconds = entry.get("socket_timeout")
    if core and seconds is not None and seconds <= _RECEIVE:
        raise LayerMisconfigured(
            f"{where} has a socket_timeout of {seconds:g} seconds, and a receiver waits for"
            f" {_RECEIVE:g} seconds at a time.",
            hint="Give more than that, or None.",
        )


def _complete(entry: GuardedDict, logins: Logins) -> GuardedDict:
    connection_class = following(_connection_class(entry, remove=True))
    # RESP3: only there a subscribed connection may change its login.
    own = {"connection_class": connection_class, "logins": logins, "protocol": 3}
    if "sentinels" in entry:
        # One attempt each: the next sentinel is asked instead.
        once = {**_SENTINEL_DEFAULTS, "retry": Retry(NoBackoff(), 0)}
        own["sentinel_kwargs"] = GuardedDict({**once, **(entry.get("sentinel_kwargs") or {})})
    return GuardedDict({**_DEFAULTS, **entry, **own})


def _connection_class(entry: GuardedDict, *, remove: bool) -> type[Any]:
    tls = entry.pop("ssl", None) if remove else entry.get("ssl")
    if tls is None:
        # Whoever names a certificate does not mean to go without.
        tls = any(key.startswith("ssl_") for key in entry)
    if "master_name" in entry or "sentinels" in entry:
        if tls:
            return sentinel.SentinelManagedSSLConnection
        return sentinel.SentinelManagedConnection
    if "path" in entry:
        return plain.UnixDomainSocketConnection
    return plain.SSLConnection if tls else plain.Connection


def _keywords(connection_class: type[Any]) -> frozenset[str]:
    """Return the keywords of a connection class that are the user's to give."""
    found: set[str] = set()
    for base in connection_class.__mro__:
        if (own := vars(base).get("__init__")) is not None:
            found |= set(inspect.signature(own).parameters)
    ours = ("socket_", "ssl_", "retry", "health_check_")
    return frozenset(
        key for key in found if key in _PLACE | {"client_name"} or key.startswith(ours)
    )
