"""Where the layer runs: consumers, plain threads, several loops, workers, forked processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from channels.worker import Worker
from django.test.utils import override_settings

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]

FORKING = Path(__file__).with_name("forking.py")


class Chat(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """A room, written as asyncio code."""

    groups = ["room"]  # noqa: RUF012  (Channels' own form)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("room", {"type": "said", "text": content})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send_json(event["text"])


class SyncChat(JsonWebsocketConsumer):  # type: ignore[misc]
    """The same room, written as synchronous code."""

    groups = ["room"]  # noqa: RUF012  (Channels' own form)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        message = {"type": "said", "text": content}
        async_to_sync(self.channel_layer.group_send)("room", message)

    def said(self, event: dict[str, Any]) -> None:
        self.send_json(event["text"])


@pytest.fixture
async def configured(layers: Layers) -> AsyncIterator[Any]:
    """The layer of CHANNEL_LAYERS["default"]."""
    config = {**layers.settings(), "prefix": layers.prefix}
    alias = {"BACKEND": "channels_pg_secrets.ChannelLayer", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"default": alias}):
        layer = get_channel_layer()
        yield layer
        await layer.close()


async def test_consumers_talk_in_a_room(configured: Any) -> None:
    """What one of four consumers, asynchronous or not, says in a room is heard by all four."""
    consumers = (Chat, Chat, SyncChat, SyncChat)
    sockets = [WebsocketCommunicator(consumer.as_asgi(), "/") for consumer in consumers]
    for socket in sockets:
        assert (await socket.connect(timeout=5))[0]
    for number, speaker in enumerate(sockets):
        await speaker.send_json_to({"n": number})
        for socket in sockets:
            assert await socket.receive_json_from(timeout=5) == {"n": number}
    await sockets[0].disconnect()
    await sockets[1].send_json_to("bye")
    for socket in sockets[1:]:
        assert await socket.receive_json_from(timeout=5) == "bye"
        await socket.disconnect()


# Plain threads ----------------------------------------------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    """Run something in a thread that has nothing to do with asyncio, and return its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(30)
    assert results, "the thread failed or hangs"
    return results[0]


def sessions(layers: Layers) -> set[tuple[int, Any]]:
    """Return what tells sessions apart."""
    query = "SELECT pid, backend_start FROM pg_stat_activity WHERE usename = %s"
    return {(pid, start) for pid, start in layers.database.execute(query, (layers.login.user,))}


async def test_a_plain_thread_opens_no_second_connection(
    layers: Layers, soon: Soon, eventually: Any
) -> None:
    """Of 50 async_to_sync calls in threads only the first opens connections, and two of them."""
    receiver_login = layers.database.login()
    receiver, layer = layers(login=receiver_login), layers()
    channel = await receiver.new_channel()
    await receiver.group_add("group", channel)

    def call(number: int) -> bool:
        async_to_sync(layer.group_send)("group", {"type": "test", "n": number})
        return True

    assert await asyncio.to_thread(in_thread, lambda: call(0))
    await eventually(lambda: len(sessions(layers)) == 2)
    first = sessions(layers)
    for number in range(1, 25):
        await asyncio.to_thread(in_thread, lambda: call(number))  # noqa: B023
    await asyncio.to_thread(in_thread, lambda: [call(n) for n in range(25, 50)])
    assert sessions(layers) == first
    assert [(await soon(receiver, channel))["n"] for _ in range(50)] == list(range(50))


async def test_everything_works_from_plain_threads(layers: Layers) -> None:
    """Every call of the layer can be made with async_to_sync, each in a loop of its own."""
    layer, other = layers(), layers()

    def work() -> list[dict[str, Any]]:
        call = async_to_sync
        channel = call(layer.new_channel)()
        call(layer.group_add)("group", channel)
        call(layer.group_add)("group", "member")
        call(other.group_send)("group", {"type": "group"})
        found = [call(layer.receive)(channel), call(layer.receive)("member")]
        call(layer.send)("normal", {"type": "normal"})
        found.append(call(other.receive)("normal"))
        call(layer.group_discard)("group", channel)
        call(layer.group_discard)("group", "member")
        call(layer.group_send)("group", {"type": "nobody"})
        call(layer.send)(channel, {"type": "own"})
        found.append(call(layer.receive)(channel))
        call(layer.flush)()
        return found

    found = await asyncio.wait_for(asyncio.to_thread(in_thread, work), 30)
    assert [message["type"] for message in found] == ["group", "group", "normal", "own"]


async def test_many_threads_at_once(layers: Layers, soon: Soon) -> None:
    """Ten threads sending at the same time lose nothing, keep each its order, and share two
    connections."""
    receiver = layers(login=layers.database.login(), capacity=10_000)
    layer = layers()
    channel = await receiver.new_channel()

    def work(name: int) -> None:
        for number in range(20):
            async_to_sync(layer.send)(channel, {"type": "test", "from": name, "n": number})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(10)]
    for thread in threads:
        thread.start()
    received = [await soon(receiver, channel) for _ in range(200)]
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert layers.backends() == 2
    for name in range(10):
        assert [m["n"] for m in received if m["from"] == name] == list(range(20))


# Several loops ----------------------------------------------------------------------------


async def test_several_loops_at_once(layers: Layers) -> None:
    """Loops in four threads use one layer at the same time and hear each other and themselves."""
    layer, count = layers(), 30
    channels: dict[int, str] = {}
    ready = threading.Barrier(4)

    async def work(name: int) -> list[int]:
        channel = channels[name] = await layer.new_channel()
        await layer.group_add("group", channel)
        await asyncio.to_thread(ready.wait, 10)
        await layer.group_send("group", {"type": "test", "n": name})
        for number in range(count):
            await layer.send(channels[(name + 1) % 4], {"type": "test", "n": 100 + number})
        received = []
        for _ in range(4 + count):
            message = await asyncio.wait_for(layer.receive(channel), 20)
            received.append(message["n"])
        await asyncio.to_thread(ready.wait, 20)
        return received

    runs = [asyncio.to_thread(asyncio.run, work(name)) for name in range(4)]
    for received in await asyncio.wait_for(asyncio.gather(*runs), 60):
        assert sorted(n for n in received if n < 100) == [0, 1, 2, 3]
        assert [n - 100 for n in received if n >= 100] == list(range(count))


async def test_loops_one_after_another(layers: Layers) -> None:
    """A channel and its group membership outlast the loop in which they were made."""
    layer, other = layers(), layers()

    async def begin() -> str:
        channel = str(await layer.new_channel())
        await layer.group_add("group", channel)
        return channel

    async def go_on(channel: str) -> str:
        await other.group_send("group", {"type": "test"})
        return str((await asyncio.wait_for(layer.receive(channel), 10))["type"])

    channel = await asyncio.to_thread(asyncio.run, begin())
    for _ in range(3):
        assert await asyncio.to_thread(asyncio.run, go_on(channel)) == "test"


# Workers ----------------------------------------------------------------------------------


async def test_workers_share_the_work(layers: Layers, eventually: Eventually) -> None:
    """Two of Channels' workers on one channel handle each message exactly once between them."""
    handled: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while True:
            handled.append((await receive())["n"])

    workers = [Worker(application, ["work"], layers()) for _ in range(2)]
    tasks = [asyncio.create_task(worker.handle()) for worker in workers]
    sender = layers(capacity=1000)
    for number in range(200):
        await sender.send("work", {"type": "test", "n": number})
    await eventually(lambda: len(handled) >= 200)
    await asyncio.sleep(0.1)
    assert Counter(handled) == Counter(range(200))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    leftover = [task for task in asyncio.all_tasks() if "receive" in repr(task.get_coro())]
    for task in leftover:
        task.cancel()
    await asyncio.gather(*leftover, return_exceptions=True)


# Forks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["os", "multiprocessing"])
async def test_after_a_fork(layers: Layers, eventually: Eventually, how: str) -> None:
    """A forked child is a node of its own; its parent goes on as if nothing had happened."""
    config = json.dumps({**layers.settings(), "prefix": layers.prefix})
    # Since 3.12 Python warns of forking a process that has threads, as this one does on purpose.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(FORKING)]
    run = await asyncio.to_thread(
        subprocess.run, [*command, config, how], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["status"] == 0, run.stderr
    assert found["child"]["kinds"] == found["parent"]["kinds"] == ["group", "normal"]
    assert found["heard"] == ["from the child", "to everybody"]
    assert found["child"]["refused"]
    assert found["parent"]["node"] == found["before"] != found["child"]["node"]
    assert "Traceback" not in run.stderr
    assert await eventually(lambda: layers.backends() == 0)
