"""Messages on their way out: batches, their numbers, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import outbox as module
from channels_pg_secrets.layer.item import MAX_ITEM
from channels_pg_secrets.layer.outbox import Batch, Outbox, Outgoing, membership
from pg_secrets.testing.clock import FakeClock


@pytest.fixture
def outbox(clock: FakeClock) -> Outbox:
    """An outbox that gives up a batch in doubt after 30 seconds."""
    return Outbox(30.0)


def frame(text: str = "x", node: int = 1, **more: Any) -> Outgoing:
    """Return a message for a node, and a future for it where there is a loop."""
    since = more.pop("since", 1000.0)
    out = Outgoing(text.encode(), node=node, **more)
    out.since = since
    with contextlib.suppress(RuntimeError):
        out.future = asyncio.get_running_loop().create_future()
    return out


def queue(outbox: Outbox, *outs: Outgoing) -> list[Any]:
    """Queue them and return their futures."""
    for out in outs:
        outbox.add(out)
    return [out.future for out in outs]


def batch_of(outbox: Outbox) -> Batch:
    """Return the next batch, which must be there."""
    batch = outbox.next_batch()
    assert batch is not None
    return batch


def bodies(batch: Batch) -> list[bytes]:
    """Return what the database is given as bodies."""
    return list(batch.columns()[4])


def test_nothing_queued_is_no_batch(outbox: Outbox) -> None:
    """An empty outbox has nothing to send."""
    assert outbox.next_batch() is None
    assert not outbox.waiting


def test_neighbours_for_one_node_share_an_element(outbox: Outbox) -> None:
    """Plain items for the same node are joined by commas, others start an element."""
    queue(outbox, frame("a"), frame("b"), frame("c", 2), frame("d", 1), frame("e", 1))
    assert bodies(batch_of(outbox)) == [b"a,b", b"c", b"d,e"]


def test_joins_and_leaves_stand_alone(outbox: Outbox) -> None:
    """What has more than an item for a node is never merged with its neighbours."""
    change = membership("-", 1, "g", "h", "1")
    queue(outbox, frame("a"), change, frame("b"), frame("c"))
    assert bodies(batch_of(outbox)) == [b"a", b"-g h 1", b"b,c"]


def test_a_large_message_is_an_element_of_its_own(outbox: Outbox) -> None:
    """It shares a batch with those around it, in order, and goes alone where there are none."""
    queue(outbox, frame("a", blob=b"x"))
    assert batch_of(outbox).is_single
    outbox.done(batch_of(outbox), ())
    large = [frame("d", blob=b"y"), frame("e", blob=b"z")]
    queue(outbox, frame("b"), frame("c"), *large, frame("f"))
    columns = batch_of(outbox).columns()
    assert columns[4:] == ([b"b,c", b"d", b"e", b"f"], [None, b"y", b"z", None])


def test_a_message_larger_than_a_batch_goes_alone(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is before it nor what is behind it waits until it is written."""
    monkeypatch.setattr(module, "BATCH_BYTES", 10)
    huge = frame("C", blob=b"x" * 10)
    queue(
        outbox, frame("a"), frame("b", 2), huge, frame("c", blob=b"xxxx"), frame("d"), frame("ef")
    )
    batches = []
    while (batch := outbox.next_batch()) is not None:
        batches.append(bodies(batch))
        outbox.done(batch, ())
    assert batches == [[b"a", b"b"], [b"C"], [b"c", b"d,ef"]]


def test_a_merged_element_fits_a_notification(outbox: Outbox) -> None:
    """Merging stops before an element outgrows a notification."""
    queue(outbox, frame("y", node=2), *(frame("x" * 3000) for _ in range(5)))
    sizes = [len(body) for body in bodies(batch_of(outbox))]
    assert sizes == [1, 6001, 6001, 3000]
    assert max(sizes) <= MAX_ITEM


def test_a_full_frame_goes_alone(outbox: Outbox) -> None:
    """What comes first for one process, and fills a notification, needs no arrays."""
    queue(outbox, *(frame("x" * 3000) for _ in range(5)))
    for base, size in ((0, 6001), (1, 6001), (2, 3000)):
        batch = batch_of(outbox)
        assert (batch.base, batch.is_single) == (base, True)
        assert [len(body) for body in bodies(batch)] == [size]
        outbox.done(batch, ())


def test_a_batch_is_bounded_in_elements(outbox: Outbox) -> None:
    """No batch has more than BATCH_ELEMENTS; the next continues the numbers."""
    count = module.BATCH_ELEMENTS + 10
    queue(outbox, *(frame(str(n), node=n + 1) for n in range(count)))
    first = batch_of(outbox)
    assert (first.base, len(first.elements)) == (0, module.BATCH_ELEMENTS)
    outbox.done(first, ())
    second = batch_of(outbox)
    assert (second.base, len(second.elements)) == (module.BATCH_ELEMENTS, 10)


def test_a_batch_is_bounded_in_bytes(outbox: Outbox) -> None:
    """A batch takes no further message that would make it more than BATCH_BYTES."""
    each = MAX_ITEM - 1
    fits = module.BATCH_BYTES // each
    queue(outbox, *(frame("x" * each, node) for node in range(fits + 10)))
    assert len(batch_of(outbox).elements) == fits


def test_the_queue_is_bounded_in_bytes(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond MAX_BYTES add() raises, until something has been published or has failed."""
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    queue(outbox, frame("12345"), frame("12345"))
    with pytest.raises(ChannelLayerUnavailable, match="10 bytes"):
        outbox.add(frame("1"))
    outbox.done(batch_of(outbox), ())
    queue(outbox, frame("1234567890"))
    outbox.fail_late(1001.0, ChannelLayerUnavailable())
    queue(outbox, frame("1234567890"))


def test_one_batch_at_a_time(outbox: Outbox) -> None:
    """The same batch is returned until its outcome is known."""
    queue(outbox, frame("a"))
    batch = batch_of(outbox)
    queue(outbox, frame("b"))
    assert batch_of(outbox) is batch
    outbox.done(batch, ())
    assert bodies(batch_of(outbox)) == [b"b"]


def test_a_batch_in_doubt_keeps_its_numbers(outbox: Outbox) -> None:
    """After recover() the same batch comes again, marked as a retry."""
    queue(outbox, frame("a"))
    outbox.done(batch_of(outbox), ())
    queue(outbox, frame("b"))
    batch = batch_of(outbox)
    outbox.recover()
    assert batch_of(outbox) is batch
    assert (batch.base, batch.retry) == (1, True)


async def test_senders_learn_the_outcome(outbox: Outbox) -> None:
    """Futures are True, or False for the elements that were refused for capacity."""
    outs = [frame("a"), frame("b"), frame("c", channel="x"), frame("d", channel="x")]
    outs[2].node = outs[3].node = None
    futures = queue(outbox, *outs)
    outbox.done(batch_of(outbox), [2])
    assert [future.result() for future in futures] == [True, True, False, True]


async def test_a_refused_batch_is_split(outbox: Outbox) -> None:
    """Halving leads to the one bad message, which fails alone; the others keep their numbers."""
    futures = queue(outbox, *(frame(str(n), node=n + 1) for n in range(7)))
    sent: list[tuple[int, bytes]] = []
    while (batch := outbox.next_batch()) is not None:
        if b"4" not in bodies(batch):
            sent += [(batch.base + i, body) for i, body in enumerate(bodies(batch), 1)]
            outbox.done(batch, ())
        elif len(batch.elements) > 1:
            outbox.split(batch)
        else:
            outbox.fail(batch, ChannelLayerUnavailable("bad"))
    assert sent == [(n + 1, str(n).encode()) for n in range(7) if n != 4]
    assert isinstance(futures.pop(4).exception(), ChannelLayerUnavailable)
    assert all(future.result() for future in futures)


async def test_a_cancelled_send_is_not_sent(outbox: Outbox) -> None:
    """What was cancelled before its batch was made is left out, and frees its bytes."""
    futures = queue(outbox, frame("a"), frame("b"), frame("c"))
    futures[1].cancel()
    assert bodies(batch_of(outbox)) == [b"a,c"]


async def test_a_queue_of_cancelled_sends_is_empty(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything was cancelled there is no batch, no number is used and no byte held."""
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    (future,) = queue(outbox, frame("a"))
    future.cancel()
    assert outbox.next_batch() is None
    queue(outbox, frame("b"))
    assert batch_of(outbox).base == 0


async def test_late_sends_fail_and_in_doubt_ones_may_still_arrive(outbox: Outbox) -> None:
    """fail_late() fails those who have waited too long; only what is in flight is kept."""
    (in_flight,) = queue(outbox, frame("a", since=1.0))
    batch = batch_of(outbox)
    late, patient = queue(outbox, frame("b", since=2.0), frame("c", since=9.0))
    outbox.fail_late(5.0, ChannelLayerUnavailable("late"))
    assert isinstance(in_flight.exception(), ChannelLayerUnavailable)
    assert isinstance(late.exception(), ChannelLayerUnavailable)
    assert not patient.done()
    outbox.done(batch, ())
    assert bodies(batch_of(outbox)) == [b"c"]


async def test_a_batch_in_doubt_for_too_long_is_given_up(outbox: Outbox, clock: FakeClock) -> None:
    """What would expire on arrival is not sent again; what is behind it is."""
    futures = queue(outbox, frame("a"))
    batch = batch_of(outbox)
    outbox.recover()
    queue(outbox, frame("b"))
    clock.advance(29.9)
    assert batch_of(outbox) is batch
    clock.advance(0.1)
    assert bodies(batch_of(outbox)) == [b"b"]
    assert isinstance(futures[0].exception(), ChannelLayerUnavailable)


def test_what_was_sent_lately_is_sent_again(outbox: Outbox, clock: FakeClock) -> None:
    """resend() brings back the batches of the last ten seconds, in order, with their numbers."""
    made = []
    for number, age in enumerate((11.0, 9.0, 1.0)):
        queue(outbox, frame(str(number)))
        batch = batch_of(outbox)
        batch.since = clock.monotonic() - age
        made.append(batch)
        outbox.done(batch, ())
    queue(outbox, frame("new"))
    outbox.resend()
    again = []
    while (batch := outbox.next_batch()) is not None:  # type: ignore[assignment]
        again.append((batch.base, bodies(batch), batch.retry))
        outbox.done(batch, ())
    assert again == [(1, [b"1"], True), (2, [b"2"], True), (3, [b"new"], False)]


def test_what_is_kept_is_bounded_in_bytes(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is kept for a resend the oldest goes first when it is too much."""
    monkeypatch.setattr(module, "KEEP_BYTES", 5)
    for text in ("123", "456", "78"):
        queue(outbox, frame(text))
        outbox.done(batch_of(outbox), ())
    outbox.resend()
    assert bodies(batch_of(outbox)) == [b"456"]


async def test_only_messages_to_full_channels_are_refused(outbox: Outbox) -> None:
    """Of what shares a batch, messages to a full channel fail, and the rest is sent instead."""
    outs = [
        frame("cfull eA=="),
        frame("cfuller eA=="),
        frame("afull"),
        membership("+", 1, "g", "full", "1"),
        Outgoing(b"gfull eA==", group="full"),
        Outgoing(b"cfull eA==", channel="full"),
    ]
    futures = queue(outbox, *outs)
    batch = batch_of(outbox)
    outbox.refuse(batch, ["full"])
    assert batch_of(outbox) is batch
    assert not batch.retry
    assert bodies(batch) == [
        b"cfuller eA==,afull",
        b"+g full 1",
        b"gfull eA==",
        b"cfull eA==",
    ]
    assert futures[0].result() is False
    outbox.done(batch, ())
    assert futures[1].result() is True
    assert not outbox.waiting
    assert outbox._bytes == 0


async def test_a_batch_of_nothing_but_full_channels_is_gone(outbox: Outbox) -> None:
    """When all of a batch is refused, what is behind it comes next, with a higher number."""
    futures = queue(outbox, frame("Cfull", blob=b"large"))
    batch = batch_of(outbox)
    queue(outbox, frame("cother eA=="))
    outbox.refuse(batch, ["full"])
    assert futures[0].result() is False
    following = batch_of(outbox)
    assert (following.base, bodies(following)) == (1, [b"cother eA=="])
    outbox.done(following, ())
    assert outbox._bytes == 0
