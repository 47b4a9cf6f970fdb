"""One browser in one room."""

from __future__ import annotations

import time
import uuid
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_pg_secrets.demo.project.figures import GROUP, FigureBoard
from channels_pg_secrets.demo.project.history import recent, remember
from channels_pg_secrets.demo.project.sequences import SequenceTracker
from channels_pg_secrets.errors import ChannelLayerUnavailable

MAX_TEXT = 2000
MAX_NAME = 40


class ChatConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Passes what its browser says to the room, and what the room says to its browser.

    A browser sends ``{"type": "say", "id", "name", "text"}``, or ``{"type": "beat", "id"}`` for
    traffic that nobody needs to read. It gets ``said`` and ``beat`` from everybody in the room,
    itself included, ``refused`` for what could not be sent, and ``figures``.
    """

    def __init__(self, *args: Any, board: FigureBoard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.board = board
        self.sender = uuid.uuid4().hex[:12]
        self.number = 0
        self.tracker = SequenceTracker()

    async def connect(self) -> None:
        """Join the room and say what this server is."""
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.group = f"room.{self.room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()
        self.board.figures.pages += 1
        hello = {"type": "hello", "server": self.board.figures.server, "sender": self.sender}
        await self.send_json({**hello, "history": await recent(self.room)})

    async def disconnect(self, code: int) -> None:
        """Leave the room."""
        self.board.figures.pages -= 1
        await self.channel_layer.group_discard(self.group, self.channel_name)
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Pass on what the browser says."""
        match content:
            case {"type": "say", "id": str(id_), "name": str(name), "text": str(text)}:
                line = {"name": name.strip()[:MAX_NAME], "text": text.strip()[:MAX_TEXT]}
                if line["name"] and line["text"] and await self.publish("said", id_, **line):
                    await remember(self.room, **line)
            case {"type": "beat", "id": str(id_)}:
                await self.publish("beat", id_)
            case _:
                await self.send_json({"type": "refused", "id": None, "why": "not understood"})

    async def publish(self, kind: str, id_: str, **extra: str) -> bool:
        """Send to the room under the next number, and say whether the layer took it."""
        self.number += 1
        message = {"kind": kind, "id": id_[:64], "sender": self.sender, "number": self.number}
        origin = {"server": self.board.figures.server, "at": time.time()}
        try:
            await self.channel_layer.group_send(
                self.group, {"type": "room.message", **message, **origin, **extra}
            )
        except ChannelLayerUnavailable as error:
            self.board.figures.refused += 1
            await self.send_json({"type": "refused", "id": id_, "why": str(error)})
            return False
        self.board.figures.sent += 1
        return True

    async def room_message(self, event: dict[str, Any]) -> None:
        """Hand a message of the room to the browser."""
        lost, duplicated = self.tracker.see(event["sender"], event["number"])
        elsewhere = event["server"] != self.board.figures.server
        delay = time.time() - event["at"] if elsewhere else None
        self.board.arrived(delay, lost, duplicated)
        await self.send_json({**event, "type": event["kind"], "kind": None})

    async def figures_changed(self, event: dict[str, Any]) -> None:
        """Hand a server's figures to the browser."""
        await self.send_json({"type": "figures", "now": time.time(), **event["figures"]})
