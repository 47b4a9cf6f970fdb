"""One browser."""

from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer


class Chat(AsyncJsonWebsocketConsumer):
    """Says to everybody what anybody says."""

    groups = ["everybody"]  # noqa: RUF012 - Channels' own form

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """From this browser."""
        message = {"type": "chat.said", "text": str(content["text"])[:500]}
        await self.channel_layer.group_send("everybody", message)

    async def chat_said(self, event: dict[str, Any]) -> None:
        """From the channel layer."""
        await self.send_json({"text": event["text"]})
