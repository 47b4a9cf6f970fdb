"""The Django app."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig


class ChannelsPgSecretsConfig(AppConfig):
    """Registers the system checks and lets ``CHANNEL_LAYERS`` say ``ENGINE``."""

    name = "channels_pg_secrets"
    verbose_name = "Channels on PostgreSQL"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        from channels_pg_secrets.aliases import teach_channels

        # Before any models module is imported, as one may ask for the layer right there.
        teach_channels()

    def ready(self) -> None:
        """Called by Django once, when all apps are loaded."""
        from channels_pg_secrets import checks  # noqa: F401
