"""The memory engine: Channels' own in-memory layer, for tests."""

from __future__ import annotations

from typing import Any, ClassVar

from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from channels_pg_secrets.config import DATABASE_KEYS, ORM_KEYS, check_layer_options
from channels_pg_secrets.engines.base import Engine

_UNDERSTOOD = frozenset({"expiry", "group_expiry", "capacity", "channel_capacity"})


class MemoryChannelLayer(InMemoryChannelLayer):  # type: ignore[misc]
    """Channels' in-memory layer, whose ``channel_capacity`` works."""

    def __init__(self, *, channel_capacity: Any = None, **options: Any) -> None:
        super().__init__(**options)
        # Channels' own class keeps the dict and then iterates over it as if it were compiled.
        self.channel_capacity = self.compile_capacities(channel_capacity or {})


class MemoryEngine(Engine):
    """Builds a layer within this process alone; nothing is connected to.

    Takes every setting of the PostgreSQL engine, so that a test changes ``ENGINE`` and no more:
    those that say where and as whom to connect have nothing to act upon, nor have ``prefix``,
    ``symmetric_encryption_keys`` and ``send_timeout``. Like Channels' own layer it belongs to one
    event loop at a time.

    Raises:
        UnknownSetting, WrongValue: a setting is misspelt or of the wrong kind.
    """

    settings: ClassVar[frozenset[str]] = DATABASE_KEYS | ORM_KEYS | {"USING", "LISTEN"}
    takes_credentials: ClassVar[bool] = False

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        """Build a new, empty layer."""
        check_layer_options(options)
        return MemoryChannelLayer(
            **{key: value for key, value in options.items() if key in _UNDERSTOOD}
        )
