"""Where a layer's connection settings come from: ``CONFIG``, or an alias of ``DATABASES``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from channels_pg_secrets.config import (
    DATABASE_KEYS,
    check_database_settings,
    misspelt,
    wrong,
)
from channels_pg_secrets.engines.django_backend import (
    DRIVER_OPTIONS,
    libpq_keywords,
)
from channels_pg_secrets.errors import UnknownSetting, UnsuitableAlias, WrongValue
from channels_pg_secrets.guarded import GuardedDict
from pg_secrets.options import nearest

#: What ``LISTEN`` may hold: where and as whom, not how the session is set up.
LISTEN_KEYS = DATABASE_KEYS - {"TIME_ZONE"}
_TO_LIBPQ = {
    "NAME": "dbname",
    "HOST": "host",
    "PORT": "port",
    "USER": "user",
    "PASSWORD": "password",
}
_DEFAULTS: dict[str, Any] = {
    "ATOMIC_REQUESTS": False,
    "AUTOCOMMIT": True,
    "CONN_MAX_AGE": 0,
    "CONN_HEALTH_CHECKS": False,
    "TIME_ZONE": None,
    "NAME": "",
    "USER": "",
    "PASSWORD": "",
    "HOST": "",
    "PORT": "",
}
_TEST_DEFAULTS: dict[str, Any] = {
    "CHARSET": None,
    "COLLATION": None,
    "MIGRATE": True,
    "MIRROR": None,
    "NAME": None,
}


def alias_settings(alias: object) -> dict[str, Any]:
    """Return ``DATABASES[alias]`` as Django sees it now, the test database's name included.

    Raises:
        UnsuitableAlias: there is no such alias.
    """
    if isinstance(alias, str) and alias in connections.settings:
        return dict(connections.settings[alias])
    names = sorted(connections.settings)
    close = nearest(alias, names) if isinstance(alias, str) else None
    raise UnsuitableAlias(
        f"CONFIG key 'USING' must be an alias of DATABASES; {alias!r} is none.",
        hint=(f"Did you mean {close!r}? " if close else "") + f"Aliases: {', '.join(names)}.",
    )


class DatabaseSettings:
    """The settings dict a Django backend gets, made anew for each connection.

    Immutable; safe to use from any thread.

    Raises:
        UnknownSetting, WrongValue, UnsuitableAlias: the settings cannot work.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.using: str | None = config.get("USING")
        self.alias = self.using or DEFAULT_DB_ALIAS
        self._config = GuardedDict(
            (key, value) for key, value in config.items() if key not in ("USING", "LISTEN")
        )
        if "USING" in config:
            self._refuse_both(config)
            check_database_settings(alias_settings(config["USING"]), f"DATABASES[{self.using!r}]")
        check_database_settings(self._config)
        #: libpq keywords for the listening connection alone.
        self.listen = _listen_params(config.get("LISTEN"))

    @property
    def engine(self) -> str | None:
        """``ENGINE`` of the alias that ``USING`` names."""
        return str(alias_settings(self.using)["ENGINE"]) if self.using else None

    def current(self) -> dict[str, Any]:
        """Return a fresh dict with all of Django's defaults filled in."""
        given = alias_settings(self.using) if self.using else self._config
        return {
            **_DEFAULTS,
            "ENGINE": "",
            **given,
            "OPTIONS": dict(given.get("OPTIONS") or {}),
            "TEST": {**_TEST_DEFAULTS, **(given.get("TEST") or {})},
        }

    def option(self, key: str, default: Any = None) -> Any:
        """Return one of ``OPTIONS``."""
        return self.current()["OPTIONS"].get(key, default)

    def place_of(self, keyword: str, value: Any) -> str | None:
        """Return where in the settings a libpq keyword has this value, if anywhere."""
        current = self.current()
        where = f"DATABASES[{self.using!r}]" if self.using else "CONFIG"
        for key, known in _TO_LIBPQ.items():
            if known == keyword and str(current[key]) == str(value):
                return f"{where}[{key!r}]"
        if current["OPTIONS"].get(keyword) == value:
            return f"{where}['OPTIONS'][{keyword!r}]"
        return None

    def check_options(self, more: frozenset[str], *, strict: bool) -> None:
        """Refuse ``OPTIONS`` that neither libpq nor Django knows, and that are not in ``more``.

        A third party's backend may have some of its own: unless ``strict``, only those pass that
        are no misspelling of a known one.

        Raises:
            UnknownSetting: naming the option and the nearest known one.
        """
        where = f"DATABASES[{self.using!r}]" if self.using else "CONFIG"
        _check_options(self.current()["OPTIONS"], where, DRIVER_OPTIONS | more, strict=strict)

    def refuse_another_engine(self, name: object) -> None:
        """Refuse a backend other than the alias's, which may not know what the alias holds.

        Raises:
            UnsuitableAlias: ``name`` is given and is not the alias's ``ENGINE``.
        """
        if name and self.engine and name != self.engine:
            raise UnsuitableAlias(
                f"CONFIG has ENGINE {name!r} and USING {self.using!r}, whose ENGINE is"
                f" {self.engine!r}.",
                hint="Leave ENGINE out: USING takes it from DATABASES.",
            )

    @staticmethod
    def _refuse_both(config: Mapping[str, Any]) -> None:
        both = sorted(DATABASE_KEYS & config.keys())
        if both:
            raise UnsuitableAlias(
                f"CONFIG has USING and also {', '.join(both)}: USING takes those from DATABASES.",
                hint="Leave one or the other out; settings for the listening connection alone go"
                " into LISTEN.",
            )


def _listen_params(listen: Any) -> GuardedDict:
    """Translate ``LISTEN`` to libpq keywords."""
    if listen is None:
        return GuardedDict()
    if not isinstance(listen, Mapping):
        raise wrong("LISTEN", listen, "a dict of connection settings")
    for key in listen:
        if key not in LISTEN_KEYS:
            close = nearest(str(key), LISTEN_KEYS)
            raise UnknownSetting(
                f"CONFIG key 'LISTEN' has an unknown key {str(key)[:50]!r}.",
                hint=(f"Did you mean {close!r}? " if close else "")
                + f"It takes {', '.join(sorted(LISTEN_KEYS))}.",
            )
    check_database_settings(listen, "LISTEN")
    options = listen.get("OPTIONS") or {}
    _check_options(options, "LISTEN", frozenset())
    params = GuardedDict(options)
    params.update({_TO_LIBPQ[key]: value for key, value in listen.items() if key != "OPTIONS"})
    if "host" in params:
        # An address found for another host would win over it.
        params.setdefault("hostaddr", None)
    return params


def _check_options(
    options: Mapping[str, Any], where: str, more: frozenset[str], *, strict: bool = True
) -> None:
    known = libpq_keywords() | more
    for key in options:
        if key not in known and (strict or misspelt(key, known)):
            close = nearest(key, known)
            raise UnknownSetting(
                f"{where} key 'OPTIONS' has {key[:50]!r}, which is no keyword of libpq.",
                hint=f"Did you mean {close!r}?" if close else "",
            )
    if options.get("pool") and where == "CONFIG":
        raise WrongValue(
            "CONFIG key 'OPTIONS' has 'pool', but a layer keeps no pool.", hint="Leave it out."
        )
