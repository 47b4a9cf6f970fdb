"""Keeps a store's answers out of logs: some SDKs write them there at DEBUG, secrets and all."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_asking: contextvars.ContextVar[bool] = contextvars.ContextVar("asking", default=False)


class _Discreet(logging.Filter):
    """Drops what is logged while we ask, and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _asking.get()


_discreet = _Discreet()


@contextmanager
def unlogged(*loggers: str) -> Iterator[None]:
    """Drop what this thread or task logs to these loggers during the block. Any thread.

    A filter counts for records of the logger itself: name each one that shows answers.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_discreet)  # adding it twice does nothing
    token = _asking.set(True)
    try:
        yield
    finally:
        _asking.reset(token)
