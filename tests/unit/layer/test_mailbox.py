"""Messages that wait for their receiver."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from channels_pg_secrets.layer import mailbox
from channels_pg_secrets.layer.health import Health
from channels_pg_secrets.layer.mailbox import Mailboxes
from pg_secrets.testing.clock import FakeClock


@pytest.fixture
def boxes(clock: FakeClock) -> Mailboxes:
    """Mailboxes for two messages each, which last ten seconds."""
    return Mailboxes(lambda channel: 2, 10.0, lambda: None, Health(object, "asgi", "1"))


async def received(boxes: Mailboxes, channel: str) -> bytes:
    """Receive as the layer does."""
    while True:
        message = boxes.take(channel)
        if message is None:
            waiter = boxes.wait(channel)
            try:
                message = boxes.handed(waiter, await waiter)
            except BaseException:
                boxes.leave(channel, waiter)
                raise
        if message is not None:
            return message


async def turn() -> None:
    """Let every other task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_in_first_out(boxes: Mailboxes) -> None:
    """Messages are taken in the order in which they were put."""
    assert boxes.put("a", b"1")
    assert boxes.put("a", b"2")
    assert [await received(boxes, "a"), await received(boxes, "a")] == [b"1", b"2"]


async def test_capacity_is_each_channels_own(boxes: Mailboxes) -> None:
    """A full channel takes no more until something is taken out; others do."""
    assert boxes.put("a", b"1")
    assert boxes.put("a", b"2")
    assert not boxes.put("a", b"3")
    assert boxes.put("b", b"1")
    await received(boxes, "a")
    assert boxes.put("a", b"4")
    assert not boxes.put("a", b"5")


async def test_bytes_are_bounded_for_the_whole_process(
    boxes: Mailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond MAX_BYTES every channel counts as full, until something is taken or dropped."""
    monkeypatch.setattr(mailbox, "MAX_BYTES", 10)
    assert boxes.put("a", b"123456")
    assert not boxes.put("b", b"12345")
    assert boxes.put("b", b"1234")
    await received(boxes, "a")
    assert boxes.put("b", b"123456")
    boxes.clear()
    assert boxes.put("c", b"1234567890")


async def test_what_expires_is_gone(boxes: Mailboxes, clock: FakeClock) -> None:
    """A message is delivered up to its expiry and not from then on; its age counts."""
    boxes.put("a", b"old", 4.0)
    boxes.put("a", b"new")
    clock.advance(5.9)
    assert not boxes.put("a", b"full")
    clock.advance(0.1)
    assert boxes.put("a", b"newer")
    assert [await received(boxes, "a"), await received(boxes, "a")] == [b"new", b"newer"]


async def test_sweeping_leaves_nothing_of_what_expired(
    boxes: Mailboxes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sweep expired messages take neither bytes nor a mailbox."""
    monkeypatch.setattr(mailbox, "MAX_BYTES", 10)
    for channel in "abcde":
        boxes.put(channel, b"12")
    clock.advance(10)
    boxes.sweep()
    assert boxes._boxes == {}
    assert boxes.put("f", b"1234567890")


async def test_a_channel_is_full_from_its_capacity_to_half_of_it(boxes: Mailboxes) -> None:
    """It counts as full when it reaches its capacity, and no more when half of it is left."""
    boxes.put("a", b"1")
    assert len(boxes.full) == 0
    boxes.put("a", b"2")
    assert len(boxes.full) == 1
    await received(boxes, "a")
    assert len(boxes.full) == 0
    boxes.put("a", b"3")
    assert len(boxes.full) == 1
    boxes.clear()
    assert len(boxes.full) == 0


async def test_hysteresis(clock: FakeClock) -> None:
    """One message taken from a full channel of four leaves it full, two do not."""
    boxes = Mailboxes(lambda channel: 4, 10.0, lambda: None, Health(object, "asgi", "1"))
    for _ in range(4):
        boxes.put("a", b"x")
    await received(boxes, "a")
    assert len(boxes.full) == 1
    await received(boxes, "a")
    assert len(boxes.full) == 0


async def test_a_channel_that_is_read_at_once_is_not_full(clock: FakeClock) -> None:
    """With a capacity of one, a message that its receiver is handed fills nothing."""
    boxes = Mailboxes(lambda channel: 1, 10.0, lambda: None, Health(object, "asgi", "1"))
    waiting = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"1")
    assert len(boxes.full) == 0
    assert boxes.put("a", b"2")
    assert len(boxes.full) == 1
    assert [await waiting, await received(boxes, "a")] == [b"1", b"2"]
    assert len(boxes.full) == 0


async def test_a_full_channel_that_nobody_reads_is_relieved(
    boxes: Mailboxes, clock: FakeClock
) -> None:
    """When a full channel's messages expire, a sweep says that it has room."""
    boxes.put("a", b"1")
    boxes.put("a", b"2")
    clock.advance(10)
    boxes.sweep()
    assert len(boxes.full) == 0
    assert boxes._boxes == {}


async def test_a_capacity_of_nothing_is_forgotten(clock: FakeClock) -> None:
    """A channel that takes nothing at all leaves no mark behind when its mailbox is swept."""
    boxes = Mailboxes(lambda channel: 0, 10.0, lambda: None, Health(object, "asgi", "1"))
    assert not boxes.put("a", b"1")
    boxes.sweep()
    assert len(boxes.full) == 0


async def test_a_waiter_gets_what_comes(boxes: Mailboxes) -> None:
    """Whoever waits is given the next message, and the mailbox is forgotten."""
    waiting = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"1")
    assert await waiting == b"1"
    boxes.sweep()
    assert boxes._boxes == {}


async def test_waiters_are_served_in_turn(boxes: Mailboxes) -> None:
    """Two messages wake the two who have waited longest."""
    waiting = [asyncio.create_task(received(boxes, "a")) for _ in range(3)]
    await turn()
    boxes.put("a", b"1")
    boxes.put("a", b"2")
    await turn()
    assert [task.result() for task in waiting[:2]] == [b"1", b"2"]
    assert not waiting[2].done()
    waiting[2].cancel()
    await turn()
    boxes.sweep()
    assert boxes._boxes == {}


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancelled_waiter_passes_the_message_on(boxes: Mailboxes, turns: int) -> None:
    """A waiter cancelled after it was woken leaves the message to the next one, in order."""
    first, second = (asyncio.create_task(received(boxes, "a")) for _ in range(2))
    await turn()
    boxes.put("a", b"1")
    if turns == 0:
        first.cancel()
        await turn()
        assert first.cancelled()
        assert second.result() == b"1"
        return
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    await turn()
    boxes.put("a", b"2")
    await turn()
    results = [task.result() for task in (first, second) if not task.cancelled()]
    assert results == ([b"1"] if first.cancelled() else [b"1", b"2"])


async def test_what_a_loop_that_stands_still_was_handed_is_put_back(boxes: Mailboxes) -> None:
    """Another receiver gets it, in order, and the one that was handed it does not."""
    first, second = (asyncio.create_task(received(boxes, "a")) for _ in range(2))
    await turn()
    boxes.put("a", b"1")
    boxes.put("a", b"2")
    boxes.reclaim(asyncio.get_running_loop())
    assert [boxes.take("a"), boxes.take("a"), boxes.take("a")] == [b"1", b"2", None]
    await turn()
    assert not first.done()
    assert not second.done()
    boxes.put("a", b"3")
    boxes.put("a", b"4")
    assert {await first, await second} == {b"3", b"4"}
    boxes.sweep()
    assert boxes._boxes == {}


async def test_clearing_keeps_those_who_wait(boxes: Mailboxes) -> None:
    """clear() drops messages, and whoever waits gets the next one."""
    waiting = asyncio.create_task(received(boxes, "a"))
    boxes.put("b", b"1")
    await turn()
    boxes.clear()
    boxes.put("a", b"2")
    assert await waiting == b"2"
    assert boxes.put("b", b"1")
    assert boxes.put("b", b"2")


def test_a_waiter_in_a_closed_loop_takes_no_message(boxes: Mailboxes) -> None:
    """A message is not spent on a waiter whose loop is closed."""
    loop = asyncio.new_event_loop()
    orphan = received(boxes, "a")
    loop.run_until_complete(_start(orphan))
    loop.close()
    orphans = list(boxes._boxes["a"].waiters)
    assert len(orphans) == 1
    boxes.put("a", b"1")

    async def receive() -> bytes:
        return await asyncio.wait_for(received(boxes, "a"), 5)

    assert asyncio.run(receive()) == b"1"
    orphan.close()


async def _start(coroutine: object) -> None:
    future = coroutine.send(None)  # type: ignore[attr-defined]
    assert isinstance(future, asyncio.Future)


def test_a_message_from_another_thread_wakes_its_receiver(boxes: Mailboxes) -> None:
    """put() in a thread wakes a receiver in a loop that has nothing else to do."""

    async def receive() -> bytes:
        threading.Timer(0, boxes.put, ("a", b"1")).start()
        return await asyncio.wait_for(received(boxes, "a"), 10)

    assert asyncio.run(receive()) == b"1"


async def test_the_garbage_collector_waits_for_no_lock(
    boxes: Mailboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may close the receivers of a closed loop at any time, while the lock is held too."""

    def leave_receivers() -> None:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(received(boxes, name)) for name in "ab"]
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    forget = boxes._forget_if_empty

    def collect(channel: str, box: mailbox.Mailbox) -> None:
        gc.collect()
        forget(channel, box)

    await asyncio.to_thread(leave_receivers)
    monkeypatch.setattr(boxes, "_forget_if_empty", collect)
    sweeping = threading.Thread(target=boxes.sweep, daemon=True)
    sweeping.start()
    await asyncio.to_thread(sweeping.join, 5)
    assert not sweeping.is_alive()
    assert len(boxes) == 0


async def test_a_wake_up_that_went_to_a_closed_loop_is_made_again(boxes: Mailboxes) -> None:
    """Whoever else waits for the channel has the message then."""
    stopped = asyncio.new_event_loop()

    def leave_a_receiver() -> asyncio.Task[bytes]:
        task = stopped.create_task(received(boxes, "a"))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        stopped.run_until_complete(asyncio.sleep(0))
        return task

    left = await asyncio.to_thread(leave_a_receiver)
    receiving = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"1")
    stopped.close()
    boxes.sweep()
    await turn()
    assert receiving.done()
    assert receiving.result() == b"1"
    assert not left.done()


async def test_a_receiver_takes_no_later_message_before_one_handed_to_another(
    boxes: Mailboxes,
) -> None:
    """Or it would come after it, when the other was cancelled before its turn."""
    other = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"1")
    boxes.put("a", b"2")
    other.cancel()
    assert [await received(boxes, "a"), await received(boxes, "a")] == [b"1", b"2"]


async def test_who_was_handed_a_message_that_another_took_waits_again(boxes: Mailboxes) -> None:
    """Each message goes to one receiver."""
    first = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"1")
    boxes.put("a", b"2")
    assert await received(boxes, "a") == b"1"
    assert await first == b"2"
    second = asyncio.create_task(received(boxes, "a"))
    await turn()
    boxes.put("a", b"3")
    assert await second == b"3"
    assert boxes.size == 0
