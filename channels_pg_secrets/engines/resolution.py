"""What one new connection is opened with: settings, backend and credentials put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.engines.database_settings import DatabaseSettings
from channels_pg_secrets.engines.django_backend import (
    backend_params,
    find_backend,
    is_own_backend,
    libpq_only,
)
from channels_pg_secrets.engines.origins import origins
from channels_pg_secrets.errors import (
    LayerMisconfigured,
    UnknownEngine,
    UnsuitableAlias,
    UnsuitableEngine,
)
from channels_pg_secrets.guarded import GuardedDict
from channels_pg_secrets.precedence import with_credentials
from pg_secrets.credentials import Credentials
from pg_secrets.rejection import login_fingerprint

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# Time-outs and keepalives are pg_secrets' own defaults.
_DEFAULTS: dict[str, Any] = {
    "client_encoding": "UTF8",
    "fallback_application_name": "channels_pg_secrets",
}


@dataclass(frozen=True)
class Resolved:
    """The parameters of one connection attempt, and whose they are.

    ``fingerprint`` stands for the login: the same one is not tried again once refused.
    """

    params: GuardedDict
    credentials: Credentials | None
    fingerprint: str = field(repr=False)
    #: Where each libpq keyword came from.
    origins: Mapping[str, str] = field(repr=False)


class DjangoBackend:
    """One Django database backend together with the settings it is asked with.

    Immutable; safe to use from any thread.
    """

    def __init__(self, config: Mapping[str, Any], default: str) -> None:
        self.settings = DatabaseSettings(config)
        self.settings.refuse_another_engine(config.get("ENGINE"))
        self.name = str(config.get("ENGINE") or self.settings.engine or default)
        self.wrapper = self._find()
        self.settings.check_options(self.declared_settings, strict=is_own_backend(self.name))

    @property
    def credentials_config(self) -> Any:
        """``CREDENTIALS`` of the alias that ``USING`` names, if its backend understands them."""
        if self.settings.using and self.takes_credentials:
            return self.settings.current().get("CREDENTIALS")
        return None

    @property
    def takes_credentials(self) -> bool:
        """Whether the wrapper would by itself log in with ``CREDENTIALS``."""
        return bool(getattr(self.wrapper, "takes_credentials", False))

    @property
    def declared_settings(self) -> frozenset[str]:
        """The keys of ``CONFIG`` and ``OPTIONS`` it reads, as ``channel_layer_settings`` says."""
        return frozenset(getattr(self.wrapper, "channel_layer_settings", ()))

    @property
    def is_strict(self) -> bool:
        """Whether all keys are known: of Django's backends, and of those that declare theirs."""
        return is_own_backend(self.name) or hasattr(self.wrapper, "channel_layer_settings")

    def require_name(self) -> None:
        """Refuse settings that name no database, where nothing else can.

        Raises:
            LayerMisconfigured: there is neither ``NAME`` nor a service.
        """
        settings = self.settings.current()
        if is_own_backend(self.name) and not _names_database(settings):
            raise _unnamed()

    def params(self, *, named_later: bool) -> GuardedDict:
        """Ask the wrapper, now; ``named_later`` when credentials may supply the database's name."""
        settings = self.settings.current()
        if self.takes_credentials:
            # The engine lays them over itself, so as to know which ones it used.
            settings["CREDENTIALS"] = None
        unnamed = named_later and not _names_database(settings)
        if unnamed:
            settings["NAME"] = None
        params = backend_params(self.wrapper, settings, self.settings.alias)
        if unnamed:
            # Django's stand-in for "no database in particular".
            params.pop("dbname", None)
        return params

    def _find(self) -> type[BaseDatabaseWrapper]:
        try:
            wrapper = find_backend(self.name)
        except UnsuitableEngine as error:
            if self.settings.using is None:
                raise
            text = f"USING {self.settings.using!r}: {error.message}"
            raise UnsuitableAlias(text, hint=error.hint) from error
        if wrapper is None:
            raise UnknownEngine(f"ENGINE {self.name!r} is no Django database backend.")
        return wrapper


def resolved(
    params: Mapping[str, Any],
    credentials: Credentials | None,
    over: Mapping[str, Any],
    *,
    place_of: Callable[[str, Any], str],
    store: str,
) -> Resolved:
    """Put together what a connection is opened with.

    ``over`` (from ``LISTEN``) goes before all; see :func:`with_credentials` for the rest.
    ``place_of`` and ``store`` name where ``params`` and ``credentials`` come from.

    Raises:
        LayerMisconfigured: no database is named by any of them.
    """
    given = libpq_only(params)
    merged = GuardedDict(_DEFAULTS)
    merged.update(given if credentials is None else with_credentials(given, credentials))
    merged.update(over)
    if not merged.get("dbname") and not merged.get("service"):
        raise _unnamed()
    login = credentials.fingerprint if credentials else login_fingerprint(merged)
    told = origins(
        merged,
        given=given,
        carried=credentials.connection_params() if credentials else {},
        over=over,
        place_of=place_of,
        store=store,
    )
    return Resolved(merged, credentials, login, told)


def _names_database(settings: Mapping[str, Any]) -> bool:
    return bool(settings["NAME"] or settings["OPTIONS"].get("service"))


def _unnamed() -> LayerMisconfigured:
    return LayerMisconfigured(
        "CONFIG key 'NAME' is missing, and nothing else names the database.",
        hint="Give NAME, or USING with an alias of DATABASES, or OPTIONS['service'], or CREDENTIALS"
        " that include it.",
    )
