"""A login in words, as ``check`` and ``status`` say it; nothing of it is secret."""

from __future__ import annotations

from typing import Any


def in_words(held: dict[str, Any]) -> str:
    """Say where a login comes from, what it is and how long it lasts, by layer.status.described."""
    if held["generation"] == 0:
        return f"from {held['adapter']!r}, which gave none"
    left = held["expires_in"]
    parts = [
        f"from {held['adapter']!r}: generation {held['generation']}",
        f"version {held['version']}" if held["version"] else "",
        f"user {held['user']}" if held["user"] else "",
        f"fetched {age(held['age'])} ago",
        "no end of its own" if left is None else f"ends in {age(left)}",
    ]
    return ", ".join(part for part in parts if part)


def age(seconds: float) -> str:
    """Say how long something has been, or will be."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
