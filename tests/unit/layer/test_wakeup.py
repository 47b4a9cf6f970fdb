"""Results for futures of any event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from channels_pg_secrets.layer.wakeup import Wakeups


async def test_futures_of_this_loop_are_settled_at_once() -> None:
    """run() settles futures of the running loop before it returns."""
    loop = asyncio.get_running_loop()
    good, bad = loop.create_future(), loop.create_future()
    wakeups = Wakeups()
    assert wakeups.add(good, 1)
    assert wakeups.add(bad, error=ValueError("no"))
    assert not good.done()
    wakeups.run()
    assert good.result() == 1
    with pytest.raises(ValueError, match="no"):
        bad.result()


async def test_a_settled_or_cancelled_future_is_left_alone() -> None:
    """Settling what is done already changes nothing and raises nothing."""
    loop = asyncio.get_running_loop()
    done, cancelled = loop.create_future(), loop.create_future()
    done.set_result("first")
    cancelled.cancel()
    wakeups = Wakeups()
    wakeups.add(done, "second")
    wakeups.add(cancelled, "late")
    wakeups.run()
    assert done.result() == "first"
    assert cancelled.cancelled()


def test_futures_of_another_loop_are_settled_there() -> None:
    """A thread without a loop settles a hundred futures with one wake-up."""
    calls = 0

    async def wait() -> list[int]:
        nonlocal calls
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[int]] = [loop.create_future() for _ in range(100)]
        original = loop.call_soon_threadsafe

        def counted(*arguments: object, **options: object) -> asyncio.Handle:
            nonlocal calls
            calls += 1
            return original(*arguments, **options)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]

        def settle() -> None:
            wakeups = Wakeups()
            for number, future in enumerate(futures):
                wakeups.add(future, number)
            wakeups.run()

        thread = threading.Thread(target=settle)
        thread.start()
        return await asyncio.wait_for(asyncio.gather(*futures), 10)

    assert asyncio.run(wait()) == list(range(100))
    assert calls == 1


def test_a_closed_loops_future_is_refused() -> None:
    """add() says that nobody can be waiting any more."""
    loop = asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.close()
    wakeups = Wakeups()
    assert not wakeups.add(future, 1)
    wakeups.run()


def test_a_loop_that_closes_in_between_harms_no_other() -> None:
    """A loop closed after add() is passed over, and the others' futures are settled."""

    async def wait() -> int:
        closing = asyncio.new_event_loop()
        lost: asyncio.Future[int] = closing.create_future()
        here: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def settle() -> None:
            wakeups = Wakeups()
            assert wakeups.add(lost, 1)
            assert wakeups.add(here, 2)
            closing.close()
            wakeups.run()

        thread = threading.Thread(target=settle)
        thread.start()
        return await asyncio.wait_for(here, 10)

    assert asyncio.run(wait()) == 2
