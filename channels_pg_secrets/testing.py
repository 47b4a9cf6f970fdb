"""Closing channel layers before the test database, which they follow with ``USING``, is dropped."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.test.runner import DiscoverRunner

__all__ = ["Runner", "close_layers"]


def close_layers() -> None:
    """Close every layer that was asked for, with its connections; call it outside of event loops.

    A layer that is asked for afterwards is a new one.
    """
    while channel_layers.backends:
        _, layer = channel_layers.backends.popitem()
        if hasattr(layer, "close"):
            async_to_sync(layer.close)()


class Runner(DiscoverRunner):
    """Django's test runner, which closes the layers before it drops the test database."""

    def teardown_databases(self, *args: Any, **kwargs: Any) -> None:
        """Close the layers, then let Django go on."""
        close_layers()
        super().teardown_databases(*args, **kwargs)
