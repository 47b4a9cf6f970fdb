"""What keeps the demo from starting."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot run; the message is one sentence for the person who started it."""
