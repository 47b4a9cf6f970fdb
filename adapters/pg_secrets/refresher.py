"""The one background thread per process that keeps all sources good, and what runs at exit."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from importlib import import_module
from typing import TYPE_CHECKING

from pg_secrets.clock import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from pg_secrets.source import CredentialSource

logger = logging.getLogger("pg_secrets")

#: Seconds between two looks at a source that asked for nothing sooner.
IDLE = 60.0
#: Seconds the process may take at exit to give its leases back, and the part of them that it
#: waits for connections to be closed first.
EXIT_BUDGET = 2.0
EXIT_PATIENCE = 0.5


class Refresher:
    """Tends sources from one daemon thread, which starts with the first and ends with the last.

    It only decides what is due; whatever talks to a store runs in a thread that lives as long as
    the talk, so that one store that hangs holds up nobody else. Thread-safe.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Reentrant: a hold may be released by the garbage collector, anywhere.
        self._condition = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._woken = False
        self._exit_at: float | None = None
        self._exited = False
        self._known: weakref.WeakSet[CredentialSource] = weakref.WeakSet()
        self._sources: weakref.WeakSet[CredentialSource] = weakref.WeakSet()
        # A source that still has leases must live until they have been given back.
        self._lessees: set[CredentialSource] = set()

    def adopt(self, source: CredentialSource) -> None:
        """Remember a source, for the case of a fork."""
        with self._condition:
            self._known.add(source)

    def known(self) -> list[CredentialSource]:
        """Return every source that there is."""
        with self._condition:
            return list(self._known)

    def enlist(self, source: CredentialSource, *, lessee: bool = False) -> None:
        """Tend this source from now on; cheap when it already is."""
        with self._condition:
            self._sources.add(source)
            if lessee:
                self._lessees.add(source)
            if self._thread is None and self._exit_at is None:
                self._thread = threading.Thread(target=self._run, name="pg_secrets", daemon=True)
                self._thread.start()
                _finish_in_child_process()

    def dismiss(self, source: CredentialSource) -> None:
        """Tend this source no more."""
        with self._condition:
            self._sources.discard(source)
            self._lessees.discard(source)
            self.wake()

    def settle(self, source: CredentialSource) -> None:
        """Let a source go that has no lease left."""
        with self._condition:
            # Looked at under the lock: another thread may just have been given one.
            if not source.leased:
                self._lessees.discard(source)

    def wake(self) -> None:
        """Look at all sources now."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def _run(self) -> None:
        while self._may_go_on(self._tend_all()):
            pass
        if self._exit_at is None:
            return
        self._give_back_all(self._exit_at)
        with self._condition:
            self._exited = True
            self._condition.notify_all()

    def _may_go_on(self, delay: float) -> bool:
        """Wait until there may be something to do; say whether there is."""
        with self._condition:
            if not self._woken and self._exit_at is None:
                if not len(self._sources):
                    self._thread = None
                    return False
                self._clock.wait(self._condition, delay)
            self._woken = False
            return self._exit_at is None

    def _tend_all(self) -> float:
        # In a function of its own, so that no local keeps a source alive while the thread waits.
        delay = IDLE
        for source in list(self._sources):
            try:
                delay = min(delay, source.tend())
            except Exception as error:  # noqa: BLE001 - the thread serves the other sources too
                logger.error("a credential source failed with %s", type(error).__name__)
        return max(delay, 0.0)

    # at exit ------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give all leases back, within :data:`EXIT_BUDGET`; runs at exit in the main thread.

        The work is done by the thread that is there already: at exit no new one can be started.
        """
        with self._condition:
            if self._thread is None or not self._lessees:
                return
            self._exit_at = self._clock.monotonic() + EXIT_BUDGET
            self.wake()
            while not self._exited:
                left = self._exit_at - self._clock.monotonic()
                if left <= 0.0:
                    return
                self._clock.wait(self._condition, left)

    def _give_back_all(self, deadline: float) -> None:
        # Stores that failed lately come last: waiting for them must not cost the others their turn.
        sources = sorted(self._lessees, key=lambda source: source.failing)
        for source in sources:
            source.give_back(deadline)
        patience = deadline - EXIT_BUDGET + EXIT_PATIENCE
        with self._condition:
            while any(source.held for source in sources):
                left = patience - self._clock.monotonic()
                if left <= 0.0:
                    break
                self._clock.wait(self._condition, left)
        for source in sources:
            source.give_back(deadline, held=True)

    # after a fork -------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Forget the parent's thread and locks; the next use starts a new thread."""
        self._condition = threading.Condition(threading.RLock())
        self._thread = None
        self._woken = False
        self._exit_at = None
        self._exited = False
        self._sources = weakref.WeakSet()
        self._lessees = set()
        for source in list(self._known):
            source.after_fork()


_lock = threading.Lock()
_refreshers: dict[Clock, Refresher] = {}


def refresher_for(clock: Clock) -> Refresher:
    """Return the process's refresher; tests that bring their own clock get one of their own."""
    with _lock:
        return _refreshers.setdefault(clock, Refresher(clock))


def _finish() -> None:
    # Only this one: a test's clock does not move any more.
    refresher = _refreshers.get(SYSTEM_CLOCK)
    if refresher is not None:
        refresher.finish()


def _finish_in_child_process() -> None:
    """Have :func:`_finish` run where children end that skip atexit: whoever made them is loaded."""
    processes = sys.modules.get("multiprocessing.process")
    # By its name, as billiard's children are no children to parent_process().
    if processes is not None and processes.current_process().name != "MainProcess":
        finalize = import_module("multiprocessing.util").Finalize
        finalize(None, _finish, exitpriority=-1)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        # Sent in the children of Celery's prefork pool alone, which then end by os._exit().
        signals.worker_process_shutdown.connect(_on_shutdown, dispatch_uid="pg_secrets")


def _on_shutdown(**_: object) -> None:
    _finish()


def _after_fork() -> None:
    global _lock  # a thread of the parent may hold the old one
    _lock = threading.Lock()
    for refresher in list(_refreshers.values()):
        refresher.after_fork()


# At import, before anybody has a connection to close: handlers run last in, first out, so that
# those who close connections at exit do so before the leases behind them are given back.
atexit.register(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
