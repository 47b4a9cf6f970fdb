"""One adapter with everything around it that is the same for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import Any

from pg_secrets import policy
from pg_secrets.adapter import CredentialAdapter
from pg_secrets.cache import CURRENT, CredentialCache
from pg_secrets.clock import SYSTEM_CLOCK, Clock
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsError, CredentialsUnavailable
from pg_secrets.events import CredentialEvent, Listener
from pg_secrets.flight import Flight
from pg_secrets.guard import GuardedAdapter, again
from pg_secrets.leases import Hold
from pg_secrets.refresher import IDLE, refresher_for
from pg_secrets.rejection import RejectionGate
from pg_secrets.revocation import Revoker
from pg_secrets.stats import describe


class CredentialSource:
    """Database credentials that are fetched once, shared by all, and kept good.

    ``ttl`` is how many seconds a value without a lease is used before the store is asked again
    (``None``: the adapter's own, else 300, or 3600 where the store has said when the value ends).
    ``background`` says whether the process's refresher
    thread keeps it good, or whoever asks. ``clock`` and ``random`` are for tests.

    Thread-safe, usable from any number of event loops, and in the child of a fork, which fetches
    leases of its own.
    """

    def __init__(
        self,
        adapter: CredentialAdapter,
        *,
        ttl: float | None = None,
        background: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        random: Random | None = None,
    ) -> None:
        chosen = adapter.ttl if ttl is None else ttl
        self.adapter = adapter
        self.ttl = policy.DEFAULT_TTL if chosen is None else chosen
        self.background = background
        #: Says how long a rejected login has to wait; shared by all who connect with this source.
        self.gate = RejectionGate(clock)
        self._clock = clock
        self._refresher = refresher_for(clock)
        self._guard = GuardedAdapter(adapter)
        self._cache = CredentialCache(
            self._guard,
            ttl=chosen,
            background=background,
            clock=clock,
            random=random,
            wake=self._refresher.wake,
            landed=self._landed,
        )
        self._revoker = Revoker(self._guard, self._cache, lambda: self._refresher.dismiss(self))
        self._refresher.adopt(self)

    def __repr__(self) -> str:
        return f"<CredentialSource adapter={self._guard.name!r} generation={self.generation}>"

    @property
    def name(self) -> str:
        """The adapter's name."""
        return self._guard.name

    @property
    def clock(self) -> Clock:
        """The clock this source goes by."""
        return self._clock

    def pause(self, seconds: float) -> None:
        """Let time pass by this source's clock, in the calling thread."""
        condition = threading.Condition()
        with condition:
            self._clock.pause(condition, seconds)

    # asking -------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Return the generation held, 0 before the first fetch; never blocks."""
        return self._cache.generation

    @property
    def current(self) -> Credentials | None:
        """What is in memory and good, if anything. Never blocks, never asks the store."""
        return self._cache.current()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._cache.closed

    def get(self, timeout: float = 10.0) -> Credentials:
        """Return credentials that are good; from memory whenever there are such.

        Waits, for ``timeout`` seconds at most, when nothing usable is held, when what is held was
        rejected by the server, and, without a background thread, when it is due for a refresh
        and nobody else is at it.

        Raises:
            CredentialsUnavailable: the store did not answer in time, and nothing usable is held.
            CredentialsError: the store refused, and nothing usable is held.
        """
        held = self._cache.current()
        if held is not None:
            return held
        held, flight = self._attend(timeout)
        if flight is not None:
            flight.wait(self._clock.monotonic() + timeout)
        elif held is not None:
            return held
        return self._result(flight, timeout)

    async def aget(self, timeout: float = 10.0) -> Credentials:
        """Do what :meth:`get` does without blocking the event loop.

        Does not suspend where the answer is in memory; else a worker thread asks the store.
        """
        held = self._cache.current()
        if held is not None:
            return held
        held, flight = self._attend(timeout)
        if flight is not None:
            await flight.wait_async(timeout)
        elif held is not None:
            return held
        return self._result(flight, timeout)

    def refresh(self, timeout: float = 10.0) -> Credentials:
        """Ask the store now and return what it says; blocks for ``timeout`` seconds at most.

        Joins a fetch that is under way, and follows a renewal with one; keeps the distance of a
        second between two fetches.

        Raises:
            CredentialsError: the store gave no answer; what was held is still held.
        """
        deadline = self._clock.monotonic() + timeout
        with self._cache.lock:
            self._check_open()
            flight = self._cache.launch(deadline, forced=True)
        landed = flight.wait(deadline)
        self._cache.deliver()
        self._enlist()
        if flight.error is not None:
            raise again(flight.error)
        if not landed:
            raise self._no_answer(timeout)
        return self._result(flight, timeout)

    def _attend(self, timeout: float) -> tuple[Credentials | None, Flight | None]:
        """Return what may be used meanwhile, and what to wait for, if anything."""
        cache = self._cache
        try:
            with cache.lock:
                self._check_open()
                now = cache.now()
                held = cache.usable(now)
                if held is None:
                    return None, cache.need(now, now.monotonic + timeout)
                due = not self.background and cache.flight is None and cache.due(now)
                flight = cache.begin() if due or cache.poll_due(now) else None
                if flight is None:
                    cache.fresh[CURRENT] = held
                return held, flight
        finally:
            cache.deliver()
            self._enlist()

    def _enlist(self) -> None:
        leased = self.leased
        if (self.background or leased) and not self.closed:
            self._refresher.enlist(self, lessee=leased)

    def _result(self, flight: Flight | None, timeout: float) -> Credentials:
        self._cache.deliver()
        self._enlist()
        with self._cache.lock:
            held = self._cache.usable(self._cache.now())
        if held is not None:
            return held
        if flight is not None and flight.error is not None:
            raise again(flight.error)
        raise self._no_answer(timeout)

    def _no_answer(self, timeout: float) -> CredentialsError:
        error = self._cache.error
        detail = f": {error}" if error is not None else ""
        return CredentialsUnavailable(
            f"adapter {self._guard.name!r} did not answer in time ({timeout:g} s){detail}"
        )

    def _check_open(self) -> None:
        if self.closed:
            raise CredentialsError(f"the source of adapter {self._guard.name!r} is closed")

    # telling ------------------------------------------------------------------------------

    def rejected(self, credentials: Credentials, sqlstate: str | None = None) -> None:
        """Note that the server refused this login (or, with 42501 and 42704, its session).

        The next :meth:`get` asks the store again, at most as often as the rejection policy says.
        Ignored when something newer is already held. Never blocks.
        """
        self.gate.rejected(credentials.fingerprint)
        cache = self._cache
        with cache.lock:
            snapshot = cache.snapshot
            if snapshot is None or snapshot.credentials.fingerprint != credentials.fingerprint:
                return
            cache.counts["rejections"] += 1
            if cache.episode.rejected(cache.clock.monotonic()):
                code = f" (SQLSTATE {sqlstate})" if sqlstate else ""
                error = CredentialsError(f"the server refused the login{code}")
                cache.announce("rejected", snapshot.credentials.generation, error)
            cache.fresh.clear()
        self._guard.rejected(credentials)
        cache.deliver()
        self._refresher.wake()

    def valid_until(self, credentials: Credentials, when: float | None) -> None:
        """Note that the server took this login, and when its role ends there (epoch seconds).

        ``None`` means never. To be told after each connect and, by whoever stays connected,
        after each renewal. Never blocks.
        """
        self.gate.accepted(credentials.fingerprint)
        cache = self._cache
        with cache.lock:
            snapshot = cache.snapshot
            if snapshot is None or snapshot.credentials.fingerprint != credentials.fingerprint:
                return
            cache.episode.accepted()
            # A role that has ended and still logs in says that the clocks differ, nothing else.
            if when is not None and when > cache.clock.time():
                snapshot = snapshot.capped_by_role(when)
            cache.put(snapshot)
        self._refresher.wake()

    def hold(self, credentials: Credentials) -> Hold:
        """Say that a connection uses these; their lease is kept until the hold is released."""
        return self._cache.book.hold(credentials)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each event, in whatever thread it arises; return the undoing.

        A listener must be quick; what it raises is logged and harms nobody.
        """
        return self._cache.listeners.subscribe(listener)

    @property
    def events(self) -> tuple[CredentialEvent, ...]:
        """The latest ten events, oldest first; thread-safe."""
        with self._cache.lock:
            return tuple(self._cache.recent)

    def stats(self) -> dict[str, Any]:
        """Return counters and ages (seconds), without secrets."""
        return describe(self._cache)

    # the refresher's side -----------------------------------------------------------------

    def tend(self) -> float:
        """Begin what is due; return the seconds until it wants to be tended again. Never blocks."""
        cache = self._cache
        cache.book.forget_expired(self._clock.time())
        self._revoker.tend()
        if not self.leased:
            self._refresher.settle(self)
        if self.closed or not self.background:
            return IDLE
        with cache.lock:
            now = cache.now()
            cache.usable(now)
            if cache.flight is None and cache.due(now):
                cache.begin()
            delay = IDLE if cache.flight is not None else cache.next_look(now) - now.monotonic
        cache.deliver()
        return min(delay, IDLE)

    def _landed(self) -> None:
        """Look again after a journey, in its thread; what it brought to a closed source goes."""
        if self.closed:
            self._revoker.settle()
        self._refresher.wake()

    def give_back(self, deadline: float, *, held: bool = False) -> None:
        """Revoke the leases nobody holds, or all, until a monotonic time. Blocks; for the exit."""
        book = self._cache.book
        self._revoker.revoke(book.take_all() if held else book.take_unheld(), deadline)

    @property
    def failing(self) -> bool:
        """Whether the store failed when it was asked last."""
        return self._cache.failures > 0

    @property
    def leased(self) -> bool:
        """Whether there is a lease to give back."""
        return len(self._cache.book) > 0

    @property
    def held(self) -> bool:
        """Whether anybody says that he uses a lease."""
        return self._cache.book.holds > 0

    def after_fork(self) -> None:
        """Become the child's source: new locks, no inherited lease, nothing under way."""
        self.gate.after_fork()
        self._cache.after_fork()

    # the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Hand out nothing more, give the leases back, close the adapter; 2 s at most.

        Leases that are held are given back, and the adapter closed, when they are released.
        """
        cache = self._cache
        with cache.lock:
            if cache.closed:
                return
            cache.closed = True
            cache.fresh.clear()
        self._revoker.close()
