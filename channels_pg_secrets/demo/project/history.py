"""The last lines of each room, kept through Django's ORM."""

from __future__ import annotations

import logging
from typing import Any

from channels.db import database_sync_to_async
from django.db import DatabaseError, InterfaceError

from channels_pg_secrets.demo.project.models import Message

LINES = 30

logger = logging.getLogger(__name__)


async def remember(room: str, name: str, text: str) -> None:
    """Store one line; a line that cannot be stored is still said."""
    try:
        await database_sync_to_async(Message.objects.create)(room=room, author=name, text=text)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("a line was not stored: %s", error)


async def recent(room: str) -> list[dict[str, Any]]:
    """Return the last lines of a room, oldest first."""
    try:
        lines: list[dict[str, Any]] = await database_sync_to_async(_recent)(room)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the history was not read: %s", error)
        return []
    return lines


def _recent(room: str) -> list[dict[str, Any]]:
    lines = Message.objects.filter(room=room).order_by("-id")[:LINES]
    return [
        {"name": line.author, "text": line.text, "at": line.said_at.timestamp()}
        for line in reversed(lines)
    ]
