"""Sends five group messages through the mirroring layer, and prints what the service got.

``LAYER`` in the environment is the inner layer's ``CONFIG`` as JSON; by default messages stay in
this process, so that nothing needs to be installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading

import django
from django.conf import settings


def serve(listener: socket.socket, lines: list[str]) -> None:
    """Be the service: take one connection and keep each line."""
    connection, _ = listener.accept()
    with connection, connection.makefile() as file:
        lines.extend(file)


async def talk() -> None:
    """Join a group, send to it, and print what arrives."""
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("talk", channel)
    for number in range(5):
        await layer.group_send("talk", {"type": "talk", "number": number})
        print("received", (await layer.receive(channel))["number"])
    await layer.close()


def main() -> None:
    """Configure Django, start the service and talk."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        inner = json.loads(os.environ.get("LAYER", '{"ENGINE": "memory"}'))
        config = {"INNER": inner, "COPY_TO": f"127.0.0.1:{port}", "expiry": 30}
        layers = {"default": {"ENGINE": "mirror.MirrorEngine", "CONFIG": config}}
        settings.configure(INSTALLED_APPS=["channels_pg_secrets"], CHANNEL_LAYERS=layers)
        django.setup()
        lines: list[str] = []
        service = threading.Thread(target=serve, args=(listener, lines), daemon=True)
        service.start()
        asyncio.run(talk())
        service.join(5)
    for line in lines:
        print("copied", line.strip())


if __name__ == "__main__":
    main()
