"""Asking a Django database backend how it would connect."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_pg_secrets.errors import LayerMisconfigured, UnsuitableEngine
from channels_pg_secrets.guarded import GuardedDict

logger = logging.getLogger(__name__)

#: Keys of ``OPTIONS`` that Django or psycopg take and libpq does not.
DRIVER_OPTIONS = frozenset(
    {
        "assume_role",
        "autocommit",
        "context",
        "cursor_factory",
        "isolation_level",
        "pool",
        "prepare_threshold",
        "row_factory",
        "server_side_binding",
    }
)


def find_backend(name: str) -> type[BaseDatabaseWrapper] | None:
    """Return the ``DatabaseWrapper`` of the Django backend ``name``; ``None`` if it is none.

    Raises:
        UnsuitableEngine: it is a backend for another database, or cannot be imported.
    """
    wrapper = _wrapper(name)
    if wrapper is not None and wrapper.vendor != "postgresql":
        raise UnsuitableEngine(
            f"ENGINE {name!r} is a Django backend for {wrapper.vendor!r}; the layer needs"
            " PostgreSQL.",
            hint="Give the layer its own NAME, HOST and USER on a PostgreSQL server.",
        )
    return wrapper


def _wrapper(name: str) -> type[BaseDatabaseWrapper] | None:
    module_name = f"{name}.base"
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        # Missing itself, or missing something else? A parent that is no package counts as itself.
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            return None
        raise UnsuitableEngine(
            f"ENGINE {name!r} cannot be imported: {module_name} needs {error.name!r}, which is not"
            " installed."
        ) from error
    except (ImportError, ImproperlyConfigured) as error:
        raise UnsuitableEngine(
            f"ENGINE {name!r} cannot be imported: {str(error).rstrip('.')}."
        ) from error
    wrapper = getattr(module, "DatabaseWrapper", None)
    if isinstance(wrapper, type) and issubclass(wrapper, BaseDatabaseWrapper):
        return wrapper
    return None


def is_own_backend(name: str) -> bool:
    """Say whether a backend is Django's or ours, so that its settings are known in full."""
    return name.startswith(("django.", "channels_pg_secrets."))


def backend_params(
    wrapper: type[BaseDatabaseWrapper], settings: Mapping[str, Any], alias: str
) -> GuardedDict:
    """Return the libpq keywords a new connection of ``wrapper`` would use right now.

    ``settings`` is an alias of ``DATABASES`` with Django's defaults filled in. A wrapper of its
    own is made each time, as Django's are not to be shared between threads and its settings may
    have changed. May block for as long as the wrapper does.

    Raises:
        LayerMisconfigured: the wrapper refuses the settings.
    """
    # Wrappers change their settings as they go; OPTIONS is what Django's own pops from.
    own = {**settings, "OPTIONS": dict(settings["OPTIONS"]), "TEST": dict(settings["TEST"])}
    try:
        params = wrapper(own, alias).get_connection_params()
    except ImproperlyConfigured as error:
        raise LayerMisconfigured(f"The settings of the channel layer: {error}") from error
    return libpq_only(params, getattr(wrapper, "channel_layer_settings", ()))


def libpq_only(params: Mapping[str, Any], declared: Collection[str] = ()) -> GuardedDict:
    """Return what libpq understands of ``params``.

    The rest is the business of Django, of psycopg, or of a wrapper that has ``declared`` it; of
    any other key a warning is logged, once: somebody may take it for a setting of the connection.
    """
    known = libpq_keywords()
    for key in params:
        if key not in known and key not in DRIVER_OPTIONS and key not in declared:
            warn_of(str(key)[:50])
    return GuardedDict((key, value) for key, value in params.items() if key in known)


@cache
def warn_of(key: str) -> None:
    """Log that a connection parameter is left out; says it once for each key."""
    logger.warning(
        "The connection parameter %r is left out, as libpq does not know it. A backend that reads"
        " it for itself should list it in channel_layer_settings.",
        key,
    )


@cache
def libpq_keywords() -> frozenset[str]:
    """Return the connection keywords of the libpq in use."""
    return frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
