"""The home loop: where it is, when it moves, and that nothing is lost when it does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync

from channels_pg_secrets.layer import candidate, homes, link

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]


class Loop:
    """An event loop in a thread, which can be stopped, resumed and blocked."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self.resume()

    def start(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
        """Begin something there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def run(self, work: Coroutine[Any, Any, Any], timeout: float = 15.0) -> Any:
        """Do something there and wait for it."""
        return await asyncio.wait_for(asyncio.wrap_future(self.start(work)), timeout)

    def block(self, seconds: float) -> None:
        """Keep the loop from taking turns, from its next turn on."""
        self.loop.call_soon_threadsafe(time.sleep, seconds)

    def stop(self) -> None:
        """Stop the loop and leave everything in it as it is."""
        assert self._thread is not None
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self._thread = None

    def resume(self) -> None:
        """Let a stopped loop go on."""
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        """End the loop properly, if it is not."""
        if self.loop.is_closed():
            return
        if self._thread is not None:
            self.stop()
        self.loop.run_until_complete(_cancel_all())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, unstoppable = await asyncio.wait(tasks, timeout=5)
        assert not unstoppable


@pytest.fixture
def loops() -> Iterator[Callable[[], Loop]]:
    """Starts event loops in threads."""
    made: list[Loop] = []

    def make() -> Loop:
        made.append(Loop())
        return made[-1]

    yield make
    for loop in made:
        loop.close()


async def receive_into(layer: Any, channel: str, received: list[Any], count: int = 1) -> None:
    """Receive so many messages, one after the other."""
    while count:
        received.append((await layer.receive(channel))["n"])
        count -= 1


async def settle_home(layer: Any, loop: Loop, channel: str) -> concurrent.futures.Future[Any]:
    """Have a receive pending on a loop, and wait until that is home and connected."""
    pending = loop.start(layer.receive(channel))
    until = time.monotonic() + 10
    # Not stats alone: new_channel has made the loop home, and a receive that has not begun when the
    # loop is stopped and closed is a coroutine that nobody awaited.
    node = layer._here()
    while (
        not node.receives_in(loop.loop)
        or layer.stats()["home"] != "receiver"
        or len(layer.stats()["connected"]) < 2
    ):
        assert time.monotonic() < until, layer.stats()
        await asyncio.sleep(0.02)
    return pending


async def test_a_receiver_is_home(layers: Layers, loops: Callable[[], Loop]) -> None:
    """The first loop that receives is home; no private loop is started."""
    layer, loop = layers(), loops()
    channel = await loop.run(layer.new_channel())
    await settle_home(layer, loop, channel)
    names = [thread.name for thread in threading.enumerate()]
    assert "channels_pg_secrets home" not in names


async def test_home_ends_with_its_loop_while_others_wait(
    layers: Layers, loops: Callable[[], Loop]
) -> None:
    """When asyncio.run ends in the home's thread, a receive in another thread goes on."""
    layer, sender, other = layers(), layers(), loops()

    async def first() -> str:
        channel = str(await layer.new_channel())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.3)
        return str(await layer.new_channel())

    channel = await asyncio.to_thread(asyncio.run, first())
    pending = other.start(layer.receive(channel))
    await sender.send(channel, {"type": "test"})
    assert await asyncio.wait_for(asyncio.wrap_future(pending), 10) == {"type": "test"}


async def test_a_receive_pending_when_home_closes(
    layers: Layers, loops: Callable[[], Loop]
) -> None:
    """A receive that was already waiting when the home loop was closed gets its message."""
    layer, sender, home, other = layers(), layers(), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    channel = await other.run(layer.new_channel())
    pending = other.start(layer.receive(channel))
    await asyncio.to_thread(home.close)
    await sender.send(channel, {"type": "test"})
    assert await asyncio.wait_for(asyncio.wrap_future(pending), 10) == {"type": "test"}


async def test_a_send_in_flight_when_home_closes(
    layers: Layers, loops: Callable[[], Loop], soon: Soon
) -> None:
    """Sends of another thread that were under way when the home loop was closed arrive, once."""
    layer, receiver, home, other = layers(), layers(capacity=1000), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    channel = await receiver.new_channel()

    async def send() -> None:
        for number in range(300):
            await layer.send(channel, {"type": "test", "n": number})

    sending = other.start(send())
    received = [(await soon(receiver, channel))["n"] for _ in range(20)]
    await asyncio.to_thread(home.close)
    received += [(await soon(receiver, channel))["n"] for _ in range(280)]
    await asyncio.wrap_future(sending)
    assert received == list(range(300))


async def test_the_supervisor_is_cancelled_on_a_living_loop(layers: Layers, stream: Any) -> None:
    """Somebody who cancels all tasks of a loop that lives on stops no message."""
    layer, other = layers(), layers()
    channel, there = await layer.new_channel(), await other.new_channel()
    cancelled = 0
    async with stream(other, layer, channel) as incoming, stream(layer, other, there) as outgoing:
        for _ in range(3):
            homes = [task for task in asyncio.all_tasks() if "Home._run" in repr(task.get_coro())]
            for task in homes:
                task.cancel()
            await incoming.more()
            await outgoing.more()
            cancelled += len(homes)
    # Two at first; then home is private, until a receive that begins draws it here again.
    assert cancelled >= 2


async def test_a_home_cancelled_before_its_first_turn_hangs_no_sender(layers: Layers) -> None:
    """Whoever cancels the home's task at once leaves nobody waiting for it."""
    layer = layers(send_timeout=2)
    receiving = asyncio.create_task(layer.receive("work"))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if "Home._run" in repr(task.get_coro()):
            task.cancel()
    await asyncio.wait_for(layer.send("work", {"type": "test"}), 10)
    assert await asyncio.wait_for(receiving, 10) == {"type": "test"}


async def test_private_homes_end_with_their_layers(layers: Layers, eventually: Any) -> None:
    """However early a layer is closed, the thread of its private loop ends."""
    for _ in range(10):
        layer = layers()
        sending = asyncio.create_task(layer.send("work", {"type": "test"}))
        await asyncio.sleep(0)
        await layer.close()
        await asyncio.gather(sending, return_exceptions=True)
    threads = threading.enumerate
    await eventually(lambda: not any("pg_secrets home" in thread.name for thread in threads()))


async def test_a_connection_opened_while_home_ends_is_given_back(
    layers: Layers, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home cancelled in the turn in which a login succeeds leaves no session behind."""
    layer = layers()
    await layer.new_channel()
    await eventually(lambda: len(layer.stats()["connected"]) == 2)
    home = layer._here().homes.current
    assert home is not None
    assert home.supervisor is not None
    connect = layer.engine.connect

    async def connect_and_end(**params: Any) -> Any:
        connection = await connect(**params)
        assert home._task is not None
        home._task.cancel()
        return connection

    monkeypatch.setattr(layer.engine, "connect", connect_and_end)
    home.supervisor._listening.replace = True
    home.supervisor.wake()
    await eventually(lambda: home.ended)
    await layer.close()
    await eventually(lambda: layers.backends() == 0)


async def test_a_stopped_loop_keeps_no_session(layers: Layers, loops: Callable[[], Loop]) -> None:
    """The sessions of a loop that is stopped and left end, and are closed when the loop is."""
    layer, home, other = layers(), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    channel = await other.run(layer.new_channel())
    left = layer._here().homes.current
    assert left is not None
    home.stop()
    pending = other.start(layer.receive(channel))
    until = time.monotonic() + 15
    while layer._here().homes.current is left or layers.backends() != 2:
        assert time.monotonic() < until, "the sessions of the stopped loop live on"
        await asyncio.sleep(0.05)
    home.loop.close()
    layer._here().sweep()
    assert left.supervisor is not None
    assert left.supervisor.released
    await layer.send(channel, {"type": "test"})
    assert await asyncio.wait_for(asyncio.wrap_future(pending), 10) == {"type": "test"}


async def test_a_stopped_loop_hangs_no_sender(
    layers: Layers, loops: Callable[[], Loop], soon: Soon
) -> None:
    """With the home loop stopped and not closed, a call from another thread returns soon."""
    layer, receiver, home, other = layers(), layers(), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    channel = await receiver.new_channel()
    home.stop()
    await other.run(layer.send(channel, {"type": "test"}), 6)
    assert await soon(receiver, channel) == {"type": "test"}


async def test_a_stopped_loop_hangs_no_receiver(layers: Layers, loops: Callable[[], Loop]) -> None:
    """With the home loop stopped and not closed, who waits in another thread gets his message."""
    layer, sender, home, other = layers(), layers(), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    channel = await other.run(layer.new_channel())
    pending = other.start(layer.receive(channel))
    home.stop()
    await sender.send(channel, {"type": "test"})
    assert await asyncio.wait_for(asyncio.wrap_future(pending), 10) == {"type": "test"}


async def test_a_stopped_loop_hangs_no_worker(layers: Layers, loops: Callable[[], Loop]) -> None:
    """The same for a normal channel."""
    layer, sender, home, other = layers(), layers(), loops(), loops()
    await settle_home(layer, home, await home.run(layer.new_channel()))
    pending = other.start(layer.receive("work"))
    home.stop()
    await sender.send("work", {"type": "test"})
    assert await asyncio.wait_for(asyncio.wrap_future(pending), 10) == {"type": "test"}


async def test_a_loop_that_is_resumed_repeats_nothing(
    layers: Layers, loops: Callable[[], Loop], soon: Soon, eventually: Eventually
) -> None:
    """A stopped home loop that goes on after another took over loses and repeats nothing."""
    layer, other = layers(), layers(capacity=1000)
    home, elsewhere = loops(), loops()
    mine, there = await home.run(layer.new_channel()), await other.new_channel()
    pending = await settle_home(layer, home, mine)
    received: list[Any] = []

    async def send(first: int) -> None:
        for number in range(first, first + 50):
            await layer.send(there, {"type": "test", "n": number})

    await elsewhere.run(send(0))
    home.stop()
    await elsewhere.run(send(50))
    for number in range(30):
        await other.send(mine, {"type": "test", "n": number})
    home.resume()
    await elsewhere.run(send(100))
    received.append((await asyncio.wait_for(asyncio.wrap_future(pending), 10))["n"])
    await home.run(receive_into(layer, mine, received, 29))
    assert received == list(range(30))
    assert [(await soon(other, there))["n"] for _ in range(150)] == list(range(150))
    await other.send(mine, {"type": "last", "n": -1})
    await home.run(receive_into(layer, mine, received, 1))
    assert received[30:] == [-1]


async def test_a_blocked_loop(layers: Layers, loops: Callable[[], Loop], soon: Soon) -> None:
    """A home loop blocked for more than a second while others use the layer loses nothing."""
    layer, other = layers(capacity=1000), layers(capacity=1000)
    home, elsewhere = loops(), loops()
    mine, there = await home.run(layer.new_channel()), await other.new_channel()
    pending = await settle_home(layer, home, mine)
    received: list[Any] = []

    async def send(sender: Any, channel: str, count: int) -> None:
        for number in range(count):
            await sender.send(channel, {"type": "test", "n": number})
            await asyncio.sleep(0.005)

    sending = elsewhere.start(send(layer, there, 400))
    incoming = asyncio.create_task(send(other, mine, 400))
    await asyncio.sleep(0.2)
    home.block(1.6)
    received.append((await asyncio.wait_for(asyncio.wrap_future(pending), 10))["n"])
    await home.run(receive_into(layer, mine, received, 399), 30)
    assert received == list(range(400))
    assert [(await soon(other, there))["n"] for _ in range(400)] == list(range(400))
    await asyncio.gather(incoming, asyncio.wrap_future(sending))


async def test_a_receiver_draws_home_from_the_private_loop(
    layers: Layers, loops: Callable[[], Loop], eventually: Eventually, stream: Any
) -> None:
    """Home starts private where nobody receives, and moves to a loop that does, losing nothing."""
    layer, other, loop = layers(), layers(), loops()
    there = await other.new_channel()

    async def send() -> None:
        for number in range(200):
            await layer.send(there, {"type": "test", "n": number})
            await asyncio.sleep(0.003)

    sending = asyncio.create_task(send())
    received = [(await asyncio.wait_for(other.receive(there), 10))["n"]]
    assert layer.stats()["home"] == "private"
    channel = await loop.run(layer.new_channel())
    await settle_home(layer, loop, channel)
    while len(received) < 200:
        received.append((await asyncio.wait_for(other.receive(there), 10))["n"])
    await sending
    assert received == list(range(200))
    await other.send(channel, {"type": "test", "n": 0})
    threads = [thread for thread in threading.enumerate() if "pg_secrets home" in thread.name]
    await eventually(lambda: not any(thread.is_alive() for thread in threads))
    assert await eventually(lambda: layers.backends() == 4)


async def test_no_caller_waits_for_ever(
    layers: Layers, loops: Callable[[], Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the database away, every call from any loop ends within send_timeout and a little."""
    monkeypatch.setattr(link, "FIRST_DELAY", 0.2)
    from channels_pg_secrets.engines import PostgresEngine
    from channels_pg_secrets.errors import ChannelLayerUnavailable

    settings = {**layers.settings(), "PORT": 1}
    layer = PostgresEngine(settings).channel_layer(send_timeout=0.5)
    loop = loops()
    try:
        for run in (loop.run, asyncio.wait_for):
            for call in (
                layer.new_channel(),
                layer.send("normal", {"type": "test"}),
                layer.group_send("group", {"type": "test"}),
                layer.group_add("group", "normal"),
                layer.flush(),
            ):
                with pytest.raises(ChannelLayerUnavailable):
                    await run(call, 4)
    finally:
        await layer.close()


async def test_a_loop_that_goes_on_sending_becomes_home(
    layers: Layers, eventually: Eventually, soon: Soon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private loop's thread ends, nothing is lost, and it has two connections as before."""
    monkeypatch.setattr(homes, "FIRST_TRIAL", 0.3)
    monkeypatch.setattr(candidate, "LOOK", 0.1)
    layer, other = layers(), layers(capacity=10_000)
    there = await other.new_channel()
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await layer.send(there, {"type": "test", "n": sent})
            sent += 1
            await asyncio.sleep(0.002)

    sending = asyncio.create_task(send())
    await eventually(lambda: layer.stats()["home"] == "private")
    await eventually(lambda: layer.stats()["home"] == "sender")
    so_far = sent
    await eventually(lambda: sent > so_far + 50)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert [(await soon(other, there))["n"] for _ in range(sent)] == list(range(sent))
    await eventually(lambda: not any("pg_secrets home" in t.name for t in threading.enumerate()))
    assert await eventually(lambda: layers.backends() == 4)


async def test_loops_that_do_not_last_are_tried_for_longer(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where asyncio.run is used again and again, the private loop soon stays home."""
    monkeypatch.setattr(homes, "FIRST_TRIAL", 0.05)
    layer = layers(capacity=10_000)

    async def task() -> str:
        until = time.monotonic() + 0.75
        while time.monotonic() < until and layer.stats()["home"] != "sender":
            await layer.send("work", {"type": "test"})
            await asyncio.sleep(0.02)
        return str(layer.stats()["home"])

    # 0.05, 0.2 and then 0.8 seconds: more than such a task takes.
    found = [await asyncio.to_thread(asyncio.run, task()) for _ in range(4)]
    assert found == ["sender", "sender", "private", "private"]


@pytest.mark.parametrize("use", ["send", "receive"])
async def test_a_loop_that_ended_soon_leaves_room_for_the_next(
    layers: Layers, eventually: Eventually, use: str
) -> None:
    """Home moves to a loop that lasts, though one that did not was there before it."""
    layer = layers(capacity=10_000)

    async def once() -> None:
        if use == "send":
            await layer.send("work", {"type": "test"})
            return
        channel = await layer.new_channel()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.01)

    await asyncio.to_thread(async_to_sync(layer.send), "work", {"type": "first"})
    await asyncio.to_thread(asyncio.run, once())
    assert layer.stats()["home"] == "private"
    if use == "receive":
        receiving = asyncio.create_task(layer.receive(await layer.new_channel()))
        assert await eventually(lambda: layer.stats()["home"] == "receiver")
        receiving.cancel()
        return
    until = time.monotonic() + 5 * candidate.FIRST_TRIAL
    while layer.stats()["home"] != "sender":
        assert time.monotonic() < until, layer.stats()["home"]
        await layer.send("work", {"type": "test"})
        await asyncio.sleep(0.02)


async def test_short_calls_never_draw_home(layers: Layers) -> None:
    """async_to_sync from a plain thread leaves home private, and so opens no connection."""
    layer = layers(capacity=100_000)

    def call() -> None:
        until = time.monotonic() + 1.5 * candidate.FIRST_TRIAL
        while time.monotonic() < until:
            async_to_sync(layer.send)("work", {"type": "test"})

    await asyncio.to_thread(call)
    assert layer.stats()["home"] == "private"
    assert layer.stats()["connects"] == 2
