"""Asking every store anew when the process gets a signal, for those who want that."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import FrameType
from typing import Any

from pg_secrets.clock import SYSTEM_CLOCK
from pg_secrets.errors import CredentialsError
from pg_secrets.refresher import refresher_for
from pg_secrets.source import CredentialSource

logger = logging.getLogger("pg_secrets")


def refresh_all() -> None:
    """Have every source that holds credentials ask its store now; blocks, for ten seconds at most.

    What fails is logged, and what was held is still held. Thread-safe.
    """
    sources = [source for source in refresher_for(SYSTEM_CLOCK).known() if source.generation]
    if sources:
        with ThreadPoolExecutor(len(sources)) as threads:
            list(threads.map(_refresh, sources))


def _refresh(source: CredentialSource) -> None:
    try:
        source.refresh()
    except CredentialsError as error:
        logger.warning("adapter %r was asked anew and failed: %s", source.name, error)


class ReloadSignal:
    """A signal's handler, and the thread that does what it asks for.

    A handler runs between any two instructions of the main thread, which may hold any lock: it
    does nothing but put a word into a queue that is made for it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._words: SimpleQueue[bool] | None = None
        self._before: Any = signal.signal(number, self._handle)
        self._begin()
        os.register_at_fork(after_in_child=self._forked)

    def undo(self) -> None:
        """Put back the handler that was there before. In the main thread."""
        if self._words is not None:
            signal.signal(self._number, self._before)
            self._words.put(False)
            self._words = None

    def _begin(self) -> None:
        self._words = SimpleQueue()
        # Not in the handler: starting a thread takes locks.
        threading.Thread(
            target=_work, args=(self._words,), name="pg_secrets reload", daemon=True
        ).start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._words is not None:
            self._words.put(True)
        if callable(self._before):
            self._before(number, frame)

    def _forked(self) -> None:
        # The parent's thread is not there any more.
        if self._words is not None:
            self._begin()


def _work(words: SimpleQueue[bool]) -> None:
    while words.get():
        refresh_all()


def refresh_on_signal(number: int = signal.SIGHUP) -> Callable[[], None]:
    """Have all sources of this process ask their stores when it gets a signal; return the undoing.

    For a program of one's own, or a server that leaves the signal alone: gunicorn's master, for
    one, takes SIGHUP for itself. A handler that was there before is called as well. To be called
    in the main thread, once; works in forked children too.

    Raises:
        ValueError: this is not the main thread, or there is no such signal.
    """
    return ReloadSignal(number).undo
