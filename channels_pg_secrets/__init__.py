"""A Django Channels layer on PostgreSQL whose credentials live in a secret manager and rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_pg_secrets.engines.factory import channel_layer as ChannelLayer  # noqa: N812
    from channels_pg_secrets.errors import ChannelLayerUnavailable

    __version__: str

__all__ = ["ChannelLayer", "ChannelLayerUnavailable", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily, since Django imports this package to read its app config, before apps are ready.
    if name == "ChannelLayer":
        from channels_pg_secrets.engines.factory import channel_layer

        return channel_layer
    if name == "ChannelLayerUnavailable":
        from channels_pg_secrets.errors import ChannelLayerUnavailable

        return ChannelLayerUnavailable
    if name == "__version__":
        from importlib.metadata import version

        return version("channels-pg-secrets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
