"""A process that forks while its layer is in use; prints what parent and child found, as JSON.

Arguments: the layer's ``CONFIG``, and how to fork: ``os`` or ``multiprocessing``.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings

from channels_pg_secrets.engines.factory import channel_layer

TIMEOUT = 10


async def converse(layer: Any, group: str) -> dict[str, Any]:
    """Use a layer in every way, and say what came of it."""
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "group", "from": group})
    await layer.send("normal", {"type": "normal", "from": group})
    found = [
        await asyncio.wait_for(layer.receive(channel), TIMEOUT),
        await asyncio.wait_for(layer.receive("normal"), TIMEOUT),
    ]
    return {"node": layer.stats()["node"], "kinds": [message["type"] for message in found]}


def in_os_fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_multiprocessing(work: Callable[[], None]) -> int:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode is not None
    return process.exitcode


def main() -> None:
    layer: Any = channel_layer(**json.loads(sys.argv[1]))
    fork = {"os": in_os_fork, "multiprocessing": in_multiprocessing}[sys.argv[2]]
    reading, writing = os.pipe()
    mine = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("everybody", mine)
    before = layer.stats()["node"]

    def child() -> None:
        found = asyncio.run(converse(layer, "child"))
        async_to_sync(layer.send)(mine, {"type": "from the child"})
        async_to_sync(layer.group_send)("everybody", {"type": "to everybody"})
        try:
            asyncio.run(asyncio.wait_for(layer.receive(mine), 1))
        except ValueError:
            found["refused"] = True
        os.write(writing, json.dumps(found).encode())

    status = fork(child)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        in_child = json.loads(pipe.read())

    async def rest() -> list[str]:
        return [(await asyncio.wait_for(layer.receive(mine), TIMEOUT))["type"] for _ in range(2)]

    print(
        json.dumps(
            {
                "status": status,
                "child": in_child,
                "heard": asyncio.run(rest()),
                "parent": asyncio.run(converse(layer, "parent")),
                "before": before,
            }
        )
    )
    async_to_sync(layer.close)()


settings.configure()
main()
