"""A process under load: it sends and receives numbered messages and keeps account of them.

Told what to do like ``peer.py``: lines of JSON, ``[verb, argument, …]`` and ``["result", value]``.
The event loop of the load runs in a thread, so that the process answers while that is blocked.
"""
# ruff: noqa: E402 - the clock is replaced before anybody keeps it

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import sys
import threading
import time
import warnings
from array import array
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class WallClock:
    """The time of day, which can be set."""

    def __init__(self) -> None:
        self.step = 0.0
        self._true = time.time

    def __call__(self) -> float:
        return self._true() + self.step


time.time = wall_clock = WallClock()

from channels.exceptions import ChannelFull
from django.conf import settings

from channels_pg_secrets.engines.factory import channel_layer
from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import outbox, supervisor
from pg_secrets.errors import CredentialsError

#: Seconds that one call of the layer may take here.
TIMEOUT = 30.0
#: One message of so many is too large for a notification, and its body lies in the tables.
LARGE_EVERY = 25
PADDING = "x" * 20_000


class LoadLoop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT)

    def stop(self) -> None:
        """Let it stand still, with all that is pending in it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT)

    def close(self) -> None:
        """Cancel what is pending, and close it."""
        if not self.loop.is_running():
            return

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel())
        self.stop()
        self.loop.close()


@dataclass
class Received:
    """What came of one stream."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    sent_at: array[float] = field(default_factory=lambda: array("d"))
    received_at: array[float] = field(default_factory=lambda: array("d"))


class Lines(logging.Handler):
    """Counts what is logged, and keeps the latest."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.latest: deque[tuple[float, str]] = deque(maxlen=12)
        self.count = 0
        self.errors: list[str] = []
        self.kinds: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        text = record.getMessage()
        self.latest.append((time.monotonic(), text.partition("\n")[0]))
        # Without what differs from line to line, so that kinds can be counted.
        kind = re.sub(r"\d+", "#", text.partition("\n")[0])[:150]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if record.levelno >= logging.ERROR or record.exc_info:
            self.errors.append(self.format(record)[-2000:])


class Worker:
    """What the process can be asked."""

    def __init__(self) -> None:
        self.lines = Lines()
        logging.getLogger().addHandler(self.lines)
        self._patience = (supervisor.ANSWER_TIMEOUT, supervisor.HEARTBEAT)
        self._keeps = outbox.KEEP_SECONDS
        for name in ("channels_pg_secrets", "pg_secrets"):
            logging.getLogger(name).setLevel(logging.INFO)

    # The load ---------------------------------------------------------------------------------

    def begin(self, name: str, config: dict[str, Any]) -> None:
        """Make a layer."""
        self.name = name
        self.layer: Any = channel_layer(**config)
        self.received: dict[tuple[str, str], Received] = {}
        self.sent: dict[str, int] = {}
        self.refused: dict[str, list[int]] = {}
        self.failures: list[str] = []
        self.listened: list[str] = []
        self.pace = 0.0
        self._asked: list[tuple[float, str]] = []
        self._account: int | None = None
        self._sending = True
        self._senders = 0
        self._home = LoadLoop()

    def new_channel(self) -> str:
        """Make a channel and receive on it from now on."""
        channel: str = self._home.run(self.layer.new_channel())
        self.listen(channel)
        return channel

    def listen(self, channel: str) -> None:
        """Receive on a channel from now on."""
        self.listened.append(channel)
        self._start(self._home, self._receive(channel))

    def keep_account(self, path: str) -> None:
        """Write down what is received from now on, for when this process is killed.

        Before the layer tells the database that it was: what it told is then in one account, and
        what it did not tell is in the other.
        """
        self._account = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        inbox, account = self.layer._here().inbox, self._account
        opened = inbox.opened

        def noted(*arguments: Any) -> Any:
            content = opened(*arguments)
            message = self.layer.engine.deserialize(content)
            came = [*(message[key] for key in ("from", "to", "n", "at")), time.monotonic()]
            os.write(account, json.dumps(came).encode() + b"\n")
            return content

        inbox.opened = noted

    def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group."""
        self._home.run(self.layer.group_add(group, channel))

    def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group."""
        self._home.run(self.layer.group_discard(group, channel))

    def send(self, destination: str, target: str, interval: float) -> None:
        """Send numbered messages from now on; ``target`` is a channel, or ``group:`` and a name."""
        self.sent[destination] = 0
        self.refused[destination] = []
        self._start(self._home, self._send(destination, target, interval))

    def sent_so_far(self) -> dict[str, int]:
        """Return the number of messages sent, by destination."""
        return self.sent

    def stop_sending(self) -> dict[str, Any]:
        """Send no more; return how many were sent to each destination, and which were refused."""
        self._sending = False
        until = time.monotonic() + TIMEOUT
        while self._senders and time.monotonic() < until:
            time.sleep(0.005)
        if self._senders:
            self.failures.append(f"{self._senders} senders do not end")
        return {to: [count, self.refused[to]] for to, count in self.sent.items()}

    def resumed(self, since: float) -> list[list[Any]]:
        """Return ``[sender, destination, time]`` of what came first of all sent since."""
        found = []
        for (sender, destination), received in list(self.received.items()):
            # From the end: what was sent lately is there. The loop's thread appends to this last.
            at = None
            for index in range(len(received.received_at) - 1, -1, -1):
                if received.sent_at[index] < since:
                    break
                at = received.received_at[index]
            found.append([sender, destination, at])
        return found

    def counts(self) -> list[list[Any]]:
        """Return ``[sender, destination, different messages]``."""
        return [[*stream, len(set(got.numbers))] for stream, got in list(self.received.items())]

    def deliveries(self) -> list[list[Any]]:
        """Return ``[sender, destination, numbers, times sent, times received]``."""
        return [
            [*stream, list(got.numbers), list(got.sent_at), list(got.received_at)]
            for stream, got in list(self.received.items())
        ]

    def node(self) -> str:
        """Return the id of the layer's node."""
        return str(self.layer.stats()["node"])

    def home(self) -> str:
        """Return where the layer's connections live."""
        return str(self.layer.stats()["home"])

    def connections(self) -> int:
        """Return how many of the layer's two connections are up."""
        return len(self.layer.stats()["connected"])

    def new_channel_unread(self) -> str:
        """Make a channel on which nobody receives yet."""
        channel: str = self._home.run(self.layer.new_channel())
        return channel

    def mark(self) -> None:
        """Count memory and log lines from now on."""
        self.lines.count, self.lines.kinds = 0, {}
        self.lines.errors = []
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
        self._resident = _memory("VmRSS")

    def lately(self) -> dict[str, Any]:
        """Return what is connected, and what was logged last, with how many seconds ago."""
        now = time.monotonic()
        said = [f"{now - at:.2f} s ago: {text}" for at, text in self.lines.latest.copy()]
        return {"connected": self.layer.stats()["connected"], "said": said}

    def usage(self) -> dict[str, Any]:
        """Return bytes of peak growth, log lines and failures since the mark."""
        return {
            "growth": _memory("VmHWM") - self._resident,
            "lines": self.lines.count,
            "kinds": self.lines.kinds,
            "errors": self.lines.errors,
            "failures": self.failures,
            "stats": self.layer.stats(),
            "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        }

    def end(self) -> None:
        """Close the layer and all loops."""
        self._sending = False
        with contextlib.suppress(RuntimeError):
            self._home.run(self.layer.close())
        if self.layer.engine.source is not None:
            self.layer.engine.source.close()
        if self._account is not None:
            os.close(self._account)
        self.step_clock(0.0)
        supervisor.ANSWER_TIMEOUT, supervisor.HEARTBEAT = self._patience
        outbox.KEEP_SECONDS = self._keeps
        self._home.close()

    # Faults -----------------------------------------------------------------------------------

    def move_home(self, how: str) -> None:
        """Leave the loop of the receivers, ``closed`` or ``stopped``, and receive in another."""
        left = self._home
        self._home = LoadLoop()
        if how == "closed":
            left.close()
        else:
            left.stop()
        self._left = left  # what is stopped stays as it is, and is not collected
        for channel in self.listened:
            self._start(self._home, self._receive(channel))

    def block(self, seconds: float, destination: str, target: str, number: int) -> bool:
        """Let the loop of the receivers do nothing else for a while, and send from another.

        Returns afterwards, and says whether the layer had its connections elsewhere meanwhile.
        """
        blocked = threading.Event()

        def block() -> None:
            time.sleep(seconds)
            blocked.set()

        self._home.loop.call_soon_threadsafe(block)
        asyncio.run(self._send_one(self.name, destination, target, number))
        elsewhere = not blocked.is_set() and self.home() == "private"
        blocked.wait(seconds + TIMEOUT)
        return elsewhere

    def consume_slowly(self, seconds: float) -> None:
        """Take this many seconds for each message from now on."""
        self.pace = seconds

    def ask_the_store(self) -> None:
        """Have the layer's source ask its store now; see :meth:`asked`."""

        def ask() -> None:
            began, said = time.monotonic(), ""
            try:
                self.layer.engine.source.refresh()
            except CredentialsError as error:
                said = type(error).__name__
            self._asked.append((time.monotonic() - began, said))

        threading.Thread(target=ask, daemon=True).start()

    def asked(self) -> list[tuple[float, str]]:
        """Return how many seconds each answer of the store took, and the error if it was one."""
        return self._asked

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock of this process so far from the true time; durations go on."""
        wall_clock.step = seconds

    def keep_for(self, seconds: float) -> None:
        """Have the layer keep for so long what it may have to send again after a crash."""
        outbox.KEEP_SECONDS = seconds

    def hasten(self, seconds: float) -> None:
        """Have the layer wait so long for an answer, and half of it between two heartbeats."""
        supervisor.ANSWER_TIMEOUT, supervisor.HEARTBEAT = seconds, seconds / 2

    def fork(self, name: str, target: str, count: int) -> int:
        """Fork; the child sends messages of its own to a channel and ends; return its status."""
        with warnings.catch_warnings():
            # Since 3.12 Python warns of forking with threads about; to do so is the fault.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self.sent, self.refused = {}, {}
                # The parent's loops run in threads that the child does not have.
                asyncio.run(self._send_some(name, target, count))
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def send_many(self, destination: str, target: str, count: int) -> list[int]:
        """Send so many messages as fast as it goes; return the numbers that were refused."""

        async def send_all() -> list[int]:
            refused: list[int] = []
            numbers = iter(range(count))

            async def send_next() -> None:
                for number in numbers:
                    try:
                        await self._send_one(self.name, destination, target, number)
                    except (ChannelFull, ChannelLayerUnavailable):
                        refused.append(number)

            await asyncio.gather(*(send_next() for _ in range(500)))
            return sorted(refused)

        self.sent[destination] = count
        future = asyncio.run_coroutine_threadsafe(send_all(), self._home.loop)
        self.refused[destination] = future.result(10 * TIMEOUT)
        return self.refused[destination]

    # How --------------------------------------------------------------------------------------

    def _start(self, where: LoadLoop, work: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  (whatever it is, the driver reports it)
                self.failures.append(f"{type(error).__name__}: {error}")

        asyncio.run_coroutine_threadsafe(watched(), where.loop)

    async def _send(self, destination: str, target: str, interval: float) -> None:
        self._senders += 1
        try:
            while self._sending:
                number = self.sent[destination]
                self.sent[destination] += 1
                padding = "" if number % LARGE_EVERY else PADDING
                try:
                    await self._send_one(self.name, destination, target, number, padding)
                except (ChannelFull, ChannelLayerUnavailable):
                    self.refused[destination].append(number)
                await asyncio.sleep(interval)
        finally:
            self._senders -= 1

    async def _send_one(
        self, name: str, destination: str, target: str, number: int, padding: str = ""
    ) -> None:
        message = {"type": "test", "from": name, "to": destination, "n": number}
        message |= {"padding": padding, "at": time.monotonic()}
        if target.startswith("group:"):
            await self.layer.group_send(target.removeprefix("group:"), message)
        else:
            await self.layer.send(target, message)

    async def _send_some(self, name: str, target: str, count: int) -> None:
        for number in range(count):
            await self._send_one(name, "fork", target, number)

    async def _receive(self, channel: str) -> None:
        while True:
            message = await self.layer.receive(channel)
            stream = (message["from"], message["to"])
            received = self.received.setdefault(stream, Received())
            received.numbers.append(message["n"])
            received.sent_at.append(message["at"])
            received.received_at.append(time.monotonic())
            if self.pace:
                await asyncio.sleep(self.pace)


def _memory(what: str) -> int:
    """Return one of the sizes in /proc/self/status, in bytes."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{what}:")
    ]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Do what standard input says until it ends."""
    worker = Worker()
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            answer = ["result", getattr(worker, verb)(*arguments)]
        except Exception as error:  # noqa: BLE001  (whoever asked is to see it)
            answer = ["error", f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    settings.configure()
    main()
