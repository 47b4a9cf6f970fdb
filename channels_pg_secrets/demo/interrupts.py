"""Lets Ctrl-C and SIGTERM come only where they can do no harm."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns both signals into :class:`KeyboardInterrupt`, but not between starting a child and
    knowing of it: only at a :meth:`checkpoint` or where they are :meth:`allowed`.

    A context manager, for the main thread. The second signal does not wait any more.
    """

    def __init__(self) -> None:
        self._pending = 0
        self._allowed = False
        self._previous: list[Any] = []

    def __enter__(self) -> Interrupts:
        self._previous = [signal.signal(number, self._arrived) for number in _SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, previous in zip(_SIGNALS, self._previous, strict=True):
            signal.signal(number, previous)

    def checkpoint(self) -> None:
        """Raise :class:`KeyboardInterrupt` if a signal has come meanwhile."""
        if self._pending:
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let signals interrupt the block at once."""
        self.checkpoint()
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def ignore(self) -> None:
        """Let no further signal interrupt anything: what is being taken down must come down."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._pending += 1
        if self._allowed or self._pending > 1:
            raise KeyboardInterrupt
