"""Says what is being waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from channels_pg_secrets.demo.interrupts import Interrupts


class Progress:
    """Writes one line per step to standard error, so that standard output stays for results."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Name a step before it begins, and say how long it took.

        Ctrl-C takes effect between steps, and raises :class:`KeyboardInterrupt` there.
        """
        self._interrupts.checkpoint()
        began = time.monotonic()
        print(f"  {what} … ", end="", file=sys.stderr, flush=True)
        try:
            yield
        except BaseException:  # Ctrl-C too must end the line that was begun
            print("stopped", file=sys.stderr, flush=True)
            raise
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        self._interrupts.checkpoint()

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=sys.stderr, flush=True)
