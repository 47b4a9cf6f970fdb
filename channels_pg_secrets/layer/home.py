"""The event loop on which a node's connections live.

Plain threads with synchronous connections took over 120 ms for a round trip beside a busy event
loop, asyncio code on that loop 6 to 10 ms. So home is a loop in which somebody receives, or that
went on sending for a while; where there is none (WSGI, Celery, a shell), a private one in a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from channels_pg_secrets.layer.supervisor import Supervisor
from channels_pg_secrets.layer.wakeup import running_loop

if TYPE_CHECKING:
    from channels_pg_secrets.layer.node import Node

#: Seconds without a turn after which a loop counts as stopped.
STUCK = 1.0
#: The same for a private loop, which nobody can stop: it is only kept from its turn.
PRIVATE_STUCK = 5.0
#: Seconds a receive() must have been pending before it draws home away from the private loop.
SETTLED = 0.25


class Home:
    """One tenure of one loop as home."""

    def __init__(self, node: Node, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take office; the work begins with :meth:`launch`. No loop: a private one."""
        self.private = loop is None
        self.loop = loop or asyncio.new_event_loop()
        self.ended = False
        #: Somebody receives in this other loop, and home may soon move there.
        self.courted_by: asyncio.AbstractEventLoop | None = None
        #: Somebody sends in this other loop, which is on trial.
        self.on_trial: asyncio.AbstractEventLoop | None = None
        #: It is home since it went on sending.
        self.sends = False
        #: Receivers in this loop look whether it is still home.
        self.watched = False
        self.supervisor: Supervisor | None = None
        self.tenure = node.homes.succession.begin()
        self._node = node
        self._kicked = False
        self._task: asyncio.Task[None] | None = None
        self._begun = time.monotonic()

    @property
    def kind(self) -> str:
        """Whose loop it is: ``receiver``, ``sender`` or ``private``."""
        return "private" if self.private else "sender" if self.sends else "receiver"

    @property
    def replacing(self) -> bool:
        """It waits for another login: no time to give up the connections there are. Any thread."""
        return not self.ended and self.supervisor is not None and self.supervisor.replacing

    @property
    def moving(self) -> bool:
        """Another connection is about to take over from one that is up. Any thread."""
        return not self.ended and self.supervisor is not None and self.supervisor.moving

    def launch(self) -> None:
        """Begin to work: in the caller's loop, which is home, or in a thread."""
        if not self.private:
            self._start()
            return
        self.loop.call_soon(self._start)
        thread = threading.Thread(
            target=_run_forever, args=(self.loop,), name="channels_pg_secrets home", daemon=True
        )
        thread.start()

    def usable(self, running: asyncio.AbstractEventLoop | None) -> bool:
        """This home can be relied on to take its next turn."""
        if self.ended or self.loop.is_closed():
            return False
        if self.loop is running:
            return True
        turn = self.supervisor.ticked if self.supervisor is not None else self._begun
        return time.monotonic() - turn < (PRIVATE_STUCK if self.private else STUCK)

    def run_soon(self, call: Callable[[], object]) -> None:
        """Call something in the home loop; it is lost if that ends first."""
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            self.ended = True  # closed; the next use of the layer finds another

    def kick(self) -> None:
        """Publish what there is. Any thread."""
        if self.supervisor is None:
            return  # it publishes when it starts
        if running_loop() is self.loop:
            self.supervisor.publisher.pump()
        elif not self._kicked:
            self._kicked = True
            self.run_soon(self._pump)

    def stop(self) -> None:
        """End this home, wherever it is. Any thread."""
        self.run_soon(self._cancel)
        if self.supervisor is not None and not self.loop.is_running():
            # Nobody reads there any more: the server must not go on writing.
            self.supervisor.cut()

    @property
    def released(self) -> bool:
        """The connections were given back; done here where the loop was closed with them."""
        if self.supervisor is None or self.supervisor.released:
            return True
        if self.loop.is_closed():
            self.supervisor.release()
        return self.supervisor.released

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _pump(self) -> None:
        self._kicked = False
        if self.supervisor is not None:
            self.supervisor.publisher.pump()

    def _start(self) -> None:
        # An empty context: what the first caller keeps in its own must not follow the layer about.
        context = contextvars.Context()
        self.supervisor = context.run(Supervisor, self._node, self.tenure)
        self._task = context.run(self.loop.create_task, self._run(self.supervisor))
        # Not a finally in a coroutine: a task cancelled before its first turn never enters it.
        self._task.add_done_callback(self._ended)

    async def _run(self, supervisor: Supervisor) -> None:
        await supervisor.run()

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self.ended = True
        self._node.homes.ended(self)
        if self.private:
            self.loop.call_soon(self.loop.stop)


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        # Connections that were being opened are closed by their tasks.
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
