"""From ``CONFIG`` to a channel layer: what ``channels_pg_secrets.ChannelLayer`` is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from channels_pg_secrets.engines.base import Engine
from channels_pg_secrets.engines.postgres import PostgresEngine
from channels_pg_secrets.engines.registry import FoundEngine, find_engine
from channels_pg_secrets.errors import UnsuitableEngine
from channels_pg_secrets.failures import failure
from channels_pg_secrets.guarded import GuardedDict
from pg_secrets.errors import CredentialsError
from pg_secrets.registry import credential_source

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

logger = logging.getLogger(__name__)

APP_MISSING = (
    "CHANNEL_LAYERS uses channels_pg_secrets, which is not in INSTALLED_APPS: migrate will not"
    " create its tables."
)
_DEFAULT = FoundEngine(PostgresEngine)


def channel_layer(**config: Any) -> BaseChannelLayer:
    """Build the channel layer that ``CONFIG`` describes.

    Connects to nothing; safe to call from any thread.

    Raises:
        ImproperlyConfigured: a setting is wrong; see the settings reference.
        CredentialsError: ``CREDENTIALS`` name an adapter that is unknown, misconfigured or not
            installed.
    """
    # Registers the system checks also where only BACKEND is set and the app is not installed.
    from channels_pg_secrets import checks  # noqa: F401

    if apps.apps_ready and not apps.is_installed("channels_pg_secrets"):
        _warn_of_the_missing_app()
    settings = GuardedDict(config)
    found = resolve(settings)
    with _one_family_of_errors(settings):
        if isinstance(found, FoundEngine):
            given = {key: value for key, value in settings.items() if key != "ENGINE"}
            layer: BaseChannelLayer = found.engine(**given)
            return layer
        options = {key: value for key, value in settings.items() if key == key.lower()}
        return found.channel_layer(**options)


def build_engine(config: Mapping[str, Any]) -> Engine:
    """Build the engine that ``CONFIG`` describes, with its credential source.

    Raises:
        UnsuitableEngine: ``ENGINE`` is a channel layer class.
        ImproperlyConfigured, CredentialsError: as for :func:`channel_layer`.
    """
    found = resolve(config)
    if isinstance(found, FoundEngine):
        raise UnsuitableEngine(f"ENGINE {config['ENGINE']!r} is a channel layer, not an engine.")
    return found


def resolve(config: Mapping[str, Any]) -> Engine | FoundEngine:
    """Build the engine that ``CONFIG`` describes; a channel layer class is found and not called.

    Raises:
        ImproperlyConfigured, CredentialsError: as for :func:`channel_layer`; whatever the code of
            a third party raises becomes one of them.
    """
    settings = GuardedDict(config)
    with _one_family_of_errors(settings):
        found = find_engine(settings["ENGINE"]) if "ENGINE" in settings else _DEFAULT
        return found if found.is_layer else _built(found, settings)


@cache
def _warn_of_the_missing_app() -> None:
    # The check that says the same is not registered unless the app is, or a layer is built before.
    logger.warning("%s Add it.", APP_MISSING)


@contextmanager
def _one_family_of_errors(settings: Mapping[str, Any]) -> Iterator[None]:
    """Let nothing but errors of configuration out: Channels swallows KeyError, for one."""
    try:
        yield
    except (ImproperlyConfigured, CredentialsError):
        raise
    except Exception as error:
        raise UnsuitableEngine(
            f"ENGINE {settings.get('ENGINE', 'postgresql')!r} failed with {failure(error)}."
        ) from error


def _built(found: FoundEngine, settings: Mapping[str, Any]) -> Engine:
    own = GuardedDict(settings)
    name = own.pop("ENGINE", None)
    if found.backend is not None:
        own["ENGINE"] = found.backend
    credentials = own.pop("CREDENTIALS", None)
    source = None
    if credentials is not None and found.takes_credentials:
        source = credential_source(credentials)
    engine = found.engine(own, source)
    if not callable(getattr(engine, "channel_layer", None)):
        raise UnsuitableEngine(
            f"ENGINE {name!r} made something of type {type(engine).__name__}, not an engine."
        )
    return engine  # type: ignore[no-any-return]
