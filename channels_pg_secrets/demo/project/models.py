"""What people said, so that whoever comes later can read it."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models


class Message(models.Model):
    """One line said by a person in a room."""

    room: models.CharField[str, str] = models.CharField(max_length=40)
    author: models.CharField[str, str] = models.CharField(max_length=40)
    text: models.CharField[str, str] = models.CharField(max_length=2000)
    said_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "demo_chat"
        indexes: ClassVar = [models.Index(fields=["room", "-id"], name="message_by_room")]

    def __str__(self) -> str:
        return f"{self.author} in {self.room}: {self.text}"
