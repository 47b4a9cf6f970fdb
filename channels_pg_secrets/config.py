"""What ``CONFIG`` may hold, and what to say when it holds something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from channels_pg_secrets.errors import UnknownSetting, WrongValue
from pg_secrets.adapter import CredentialAdapter
from pg_secrets.options import nearest
from pg_secrets.source import CredentialSource

#: Where and as whom to connect, as in ``DATABASES``.
DATABASE_KEYS = frozenset({"NAME", "HOST", "PORT", "USER", "PASSWORD", "OPTIONS", "TIME_ZONE"})
#: Keys of ``DATABASES`` that mean nothing to a layer; taken so that an alias can be pasted, and
#: reported by a system check.
ORM_KEYS = frozenset(
    {
        "ATOMIC_REQUESTS",
        "AUTOCOMMIT",
        "CONN_HEALTH_CHECKS",
        "CONN_MAX_AGE",
        "DISABLE_SERVER_SIDE_CURSORS",
        "TEST",
    }
)
#: Keys that every engine understands, ``CONFIG`` being one dict for all of them.
COMMON_KEYS = frozenset({"ENGINE", "CREDENTIALS"})
#: What the layer itself takes, as channels_redis does.
LAYER_OPTIONS = frozenset(
    {
        "prefix",
        "expiry",
        "group_expiry",
        "capacity",
        "channel_capacity",
        "symmetric_encryption_keys",
        "send_timeout",
    }
)

_NO_POOL = (
    "there is no pool to size: each process keeps one listening and one publishing connection"
)
_REPLACED = {
    "PSYCOPG_OPTIONS": (
        "is channels_postgres' key; libpq keywords go into OPTIONS, and pool settings are dropped"
        f" ({_NO_POOL})"
    ),
    "hosts": "is channels_redis' key; use HOST, PORT, NAME and USER, or USING",
    "connection_kwargs": "is channels_redis' key; keywords for connections go into OPTIONS",
    "serializer_format": (
        "is channels_redis' key; messages are msgpack, unless a PostgresEngine of your own has"
        " another serialize() and deserialize()"
    ),
    "serializer": "is channels_redis' key; a PostgresEngine has serialize() and deserialize()",
    "random_prefix_length": "is channels_redis' key and has no counterpart; leave it out",
    "on_disconnect": "is channels_redis' key; the layer reconnects by itself, so leave it out",
    "on_reconnect": "is channels_redis' key; the layer reconnects by itself, so leave it out",
    "pool": f"does not exist: {_NO_POOL}",
    "POOL": f"does not exist: {_NO_POOL}",
    "DATABASE": "does not exist; NAME is the database, USING an alias of DATABASES",
    "BACKEND": "belongs beside CONFIG, not into it; ENGINE goes into either place",
    "TEST_CONFIG": "belongs beside CONFIG, not into it",
}


def check_keys(
    config: Mapping[str, Any], known: Iterable[str], *, engine: str, strict: bool = True
) -> None:
    """Refuse keys that ``engine`` does not know.

    Where not ``strict``, an unknown key passes unless it looks like a known one misspelt, or is a
    peer's that has a replacement among the known ones.

    Raises:
        UnknownSetting: naming the key and the nearest known one.
    """
    known = frozenset(known)
    for key in config:
        if key not in known:
            _refuse(key, known, engine=engine, strict=strict)


def _refuse(key: object, known: frozenset[str], *, engine: str, strict: bool) -> None:
    # Somebody may have put a secret where a key belongs: only what looks like a name is shown.
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]{0,49}", key):
        raise UnknownSetting(f"CONFIG of engine {engine!r} has a key that is not a name.")
    # What the texts recommend instead is known only where there is a HOST.
    if key in _REPLACED and (strict or "HOST" in known):
        raise UnknownSetting(f"CONFIG key {key!r} {_REPLACED[key]}.")
    if not strict and not misspelt(key, known):
        return
    close = nearest(key, known)
    raise UnknownSetting(
        f"CONFIG key {key!r} is not known to engine {engine!r}.",
        hint=(f"Did you mean {close!r}? " if close else "")
        + f"It knows {', '.join(sorted(known))}.",
    )


def misspelt(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that ``key`` is so like that it can hardly mean anything else."""
    close = nearest(key, known)
    if close and SequenceMatcher(None, key.casefold(), close.casefold()).ratio() >= 0.8:
        return close
    return None


def check_layer_options(options: Mapping[str, Any]) -> None:
    """Refuse layer options of the wrong kind; the values of keys are never printed.

    Raises:
        WrongValue: naming the option, the kind found and what was expected.
    """
    _check(options, _OPTION_RULES, "CONFIG")


def check_database_settings(settings: Mapping[str, Any], where: str = "CONFIG") -> None:
    """Refuse values of the wrong kind under the keys that ``DATABASES`` shares with ``CONFIG``.

    Raises:
        WrongValue: naming the key, the kind found and what was expected.
    """
    _check(settings, _DATABASE_RULES, where)
    _check(settings.get("OPTIONS") or {}, _DRIVER_RULES, f"{where}['OPTIONS']")


def _check(settings: Mapping[str, Any], rules: Mapping[str, _Rule], where: str) -> None:
    for key, value in settings.items():
        if key in rules:
            accepts, expected = rules[key]
            if not accepts(value):
                raise wrong(key, value, expected, where=where)


def wrong(key: str, value: object, expected: str, where: str = "CONFIG") -> WrongValue:
    """Return, not raise, the error for a value of the wrong kind; the value is not shown."""
    return WrongValue(f"{where} key {key!r} must be {expected}; found {_kind(value)}.")


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, (bool, int, float)):
        return f"{type(value).__name__} {value!r}"
    return f"a value of type {type(value).__name__}" if value != "" else "an empty string"


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _optional_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _time_zone(value: object) -> bool:
    if not value:
        return value is None or value == ""
    try:
        return isinstance(value, str) and bool(ZoneInfo(value))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # Without a database of time zones nobody can tell.
        return not available_timezones()


def _threshold(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


#: Seconds, some 30 years: PostgreSQL adds them to the time of day, which has an end.
_LONGEST = 1_000_000_000
#: Of PostgreSQL's integer, which capacities are in the database.
_MOST = 2**31 - 1


def _seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= _LONGEST


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


def _capacities(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, Mapping) and all(
        (isinstance(pattern, str) or hasattr(pattern, "match")) and _count(count)
        for pattern, count in value.items()
    )


def _keys(value: object) -> bool:
    if value is None or isinstance(value, (CredentialAdapter, CredentialSource)):
        return True
    if isinstance(value, Mapping):
        return "ADAPTER" in value
    return isinstance(value, (list, tuple)) and all(
        isinstance(key, (str, bytes)) and key for key in value
    )


def _port(value: object) -> bool:
    if value is None or value == "":
        return True
    # libpq takes a comma-separated list, one port for each host.
    ports = value.split(",") if isinstance(value, str) else [value]
    return all(
        not isinstance(port, bool) and str(port).isdecimal() and 0 < int(str(port)) < 65536
        for port in ports
    )


def _options(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


_Rule = tuple[Callable[[object], bool], str]

_TIME: _Rule = (_seconds, f"a positive number of seconds, at most {_LONGEST:,}")
_OPTION_RULES: dict[str, _Rule] = {
    "prefix": (_text, "a string that is not empty"),
    "expiry": _TIME,
    "group_expiry": _TIME,
    "capacity": (_count, f"a positive whole number of messages, at most {_MOST}"),
    "channel_capacity": (
        _capacities,
        f"a dict of channel name patterns to positive whole numbers, each at most {_MOST}",
    ),
    "symmetric_encryption_keys": (
        _keys,
        "a list of keys, each a string or bytes, or a dict with ADAPTER that says where they are",
    ),
    "send_timeout": _TIME,
}

_DATABASE_RULES: dict[str, _Rule] = {
    "NAME": (_optional_text, "a string"),
    "HOST": (_optional_text, "a string"),
    "PORT": (_port, "a port number"),
    "USER": (_optional_text, "a string"),
    "PASSWORD": (_optional_text, "a string"),
    "OPTIONS": (_options, "a dict with strings for keys"),
    "TIME_ZONE": (_time_zone, "the name of a time zone"),
}

_DRIVER_RULES: dict[str, _Rule] = {
    "assume_role": (_optional_text, "a role's name"),
    "prepare_threshold": (_threshold, "None or a whole number that is not negative"),
}
