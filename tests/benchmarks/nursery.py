"""Makes worker processes quickly: forks them from one that has everything imported.

A new interpreter takes a second until Django and the layers are imported, and a run needs hundreds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

#: How the command is told to be the nursery; the number of its socket follows.
OPTION = "--nursery"
_COMMAND = Path(__file__).with_name("compare.py")
_BYTES = 1 << 16


class Nursery:
    """The process that workers are forked from; one for each run."""

    def __enter__(self) -> Nursery:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_COMMAND), OPTION, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                # One peer logs a warning for each message that it cannot send yet.
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(10)

    def fork(self, name: str, place: dict[str, Any]) -> tuple[int, socket.socket]:
        """Return a new worker's pidfd, for the caller to close, and a socket to talk to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps({"name": name, "place": place}).encode()
            socket.send_fds(self._socket, [request], [theirs.fileno()])
        # Not its number, which may be another's by the time it is to be killed.
        return os.pidfd_open(int(self._socket.recv(_BYTES))), ours


def serve(descriptor: int) -> None:
    """Fork a worker for each request, until the driver hangs up."""
    from tests.benchmarks import contenders, settings, worker

    settings.configure({})
    contenders.preload()
    # What all have in common is not to be looked at, and so copied, by each one's collector.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            text, descriptors, _, _ = socket.recv_fds(requests, _BYTES, 1)
            if not text:
                return
            pid = os.fork()
            if pid == 0:
                requests.close()
                _be_born(worker.run, socket.socket(fileno=descriptors[0]), json.loads(text))
            os.close(descriptors[0])
            requests.send(str(pid).encode())


def _be_born(run: Any, connection: socket.socket, request: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run(connection, request["name"], request["place"])
    except BaseException:  # noqa: BLE001  (never back into the nursery's loop)
        traceback.print_exc()
    finally:
        # No clean-up at exit: the driver is done with it, and some layers would wait.
        os._exit(0)
