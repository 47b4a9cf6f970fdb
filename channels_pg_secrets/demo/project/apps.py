"""The chat as a Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ChatConfig(AppConfig):
    """The demo's chat."""

    name = "channels_pg_secrets.demo.project"
    label = "demo_chat"
    verbose_name = "Demo chat"
