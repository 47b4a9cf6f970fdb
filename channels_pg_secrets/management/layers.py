"""The layer that a command is about."""

from __future__ import annotations

from channels_pg_secrets.aliases import Aliases, configured_layers, is_ours
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.engines.factory import resolve
from channels_pg_secrets.errors import LayerMisconfigured


def postgres_engine(layer: str) -> PostgresEngine:
    """Build the engine of an alias of ``CHANNEL_LAYERS``; connects to nothing.

    Raises:
        ImproperlyConfigured: there is no such alias, it is not ours, does not use PostgreSQL, or
            its settings are wrong.
        CredentialsError: its ``CREDENTIALS`` are wrong.
    """
    configured = configured_layers()
    if layer not in configured:
        names = ", ".join(sorted(configured)) or "none"
        raise LayerMisconfigured(f"There is no channel layer {layer!r}. Layers: {names}.")
    if not is_ours(configured[layer]):
        raise LayerMisconfigured(f"The channel layer {layer!r} is not one of channels_pg_secrets.")
    engine = resolve(Aliases(configured)[layer]["CONFIG"])
    if not isinstance(engine, PostgresEngine):
        raise LayerMisconfigured(f"The channel layer {layer!r} does not use PostgreSQL.")
    return engine
