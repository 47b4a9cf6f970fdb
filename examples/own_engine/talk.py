"""Two processes talk: start ``talk.py listen 300`` in one window, ``talk.py send 300`` in another.

Change the password and end the sessions meanwhile: the numbers go on without a gap.
"""

from __future__ import annotations

import asyncio
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "myproject.settings")
django.setup()

from channels.layers import get_channel_layer  # noqa: E402


async def listen(count: int) -> None:
    """Join the group and print each number that comes."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("talk", channel)
    print("ready", flush=True)
    for _ in range(count):
        print((await layer.receive(channel))["number"], flush=True)
    await layer.close()


async def send(count: int) -> None:
    """Send numbers to the group, and something to compress with each."""
    layer = get_channel_layer()
    for number in range(count):
        padding = "la " * 1000
        await layer.group_send("talk", {"type": "talk", "number": number, "song": padding})
        await asyncio.sleep(0.01)
    await layer.close()


if __name__ == "__main__":
    asyncio.run({"listen": listen, "send": send}[sys.argv[1]](int(sys.argv[2])))
