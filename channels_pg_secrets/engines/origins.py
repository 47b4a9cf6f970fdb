"""Where each parameter of a connection came from, for whoever wonders; never its value."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import psycopg

_LOGIN = frozenset({"user", "password"})


def origins(
    merged: Mapping[str, Any],
    *,
    given: Mapping[str, Any],
    carried: Mapping[str, Any],
    over: Iterable[str],
    place_of: Callable[[str, Any], str],
    store: str,
) -> dict[str, str]:
    """Return the place of each libpq keyword of ``merged``, and of those libpq adds by itself.

    ``given`` comes from the settings and whoever is asked with them (``place_of`` tells which),
    ``carried`` from the credentials (``store`` is their name), and ``over`` from ``LISTEN``. Who
    goes before whom is decided in :mod:`channels_pg_secrets.precedence`; here it is only told.
    """
    found = dict.fromkeys(merged, "channels_pg_secrets' defaults")
    found.update(dict.fromkeys(carried, store))
    for key, value in given.items():
        if _filled(value) and not (key in _LOGIN and _filled(carried.get(key))):
            found[key] = place_of(key, value)
    found.update(dict.fromkeys(over, "LISTEN"))
    told = {key: place for key, place in found.items() if _filled(merged.get(key))}
    return {**_environment(), **told}


def _filled(value: Any) -> bool:
    return value is not None and value != ""


def _environment() -> dict[str, str]:
    return {
        keyword: f"the environment variable {variable}"
        for keyword, variable in _variables().items()
        if os.environ.get(variable)
    }


@cache
def _variables() -> dict[str, str]:
    """Return the environment variables that libpq reads, by keyword."""
    return {
        option.keyword.decode(): option.envvar.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.envvar
    }
