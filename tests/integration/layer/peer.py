"""A process with a layer, told what to do by lines of JSON on its standard input.

Each line is ``[verb, argument, …]``; the answer is ``["result", value]`` or ``["error", text]``.
The argument of the process itself is the layer's ``CONFIG``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from django.conf import settings

from channels_pg_secrets.engines.factory import channel_layer


class Verbs:
    """What a peer can be asked."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.layer: Any = channel_layer(**config)
        self.inbox: dict[str, list[Any]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def new_channel(self) -> str:
        """Make a channel and receive on it from now on."""
        channel: str = await self.layer.new_channel()
        await self.listen(channel)
        return channel

    async def listen(self, channel: str) -> None:
        """Receive on a channel from now on, and keep what comes."""
        inbox = self.inbox.setdefault(channel, [])

        async def receive() -> None:
            while True:
                inbox.append((await self.layer.receive(channel))["id"])

        self.tasks.append(asyncio.create_task(receive()))

    async def received(self, channel: str) -> list[Any]:
        """Return the ids that have come so far."""
        return self.inbox.get(channel, [])

    async def wait_for(self, channel: str, count: int) -> list[Any]:
        """Return the ids when there are so many, or after ten seconds."""
        for _ in range(500):
            if len(self.inbox[channel]) >= count:
                break
            await asyncio.sleep(0.02)
        return self.inbox[channel]

    async def send(self, channel: str, *ids: Any) -> None:
        """Send messages one after the other."""
        for id_ in ids:
            await self.layer.send(channel, {"type": "test", "id": id_})

    async def send_many(self, channel: str, sender: str, count: int) -> None:
        """Send numbered messages, waiting for each."""
        for number in range(count):
            await self.layer.send(channel, {"type": "test", "id": [sender, number]})

    async def group_add(self, group: str, channel: str) -> None:
        await self.layer.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        await self.layer.group_discard(group, channel)

    async def group_send(self, group: str, *ids: Any) -> None:
        for id_ in ids:
            await self.layer.group_send(group, {"type": "test", "id": id_})

    async def flush(self) -> None:
        await self.layer.flush()


async def main() -> None:
    verbs = Verbs(json.loads(sys.argv[1]))
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        verb, *arguments = json.loads(line)
        try:
            answer = ["result", await getattr(verbs, verb)(*arguments)]
        except Exception as error:  # noqa: BLE001  (whoever asked is to see it)
            answer = ["error", f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), flush=True)
    for task in verbs.tasks:
        task.cancel()
    await verbs.layer.close()


settings.configure()
asyncio.run(main())
