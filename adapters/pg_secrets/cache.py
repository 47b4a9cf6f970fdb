"""What one source holds, and the journeys to the store that keep it good."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Literal

from cachetools import TLRUCache

from pg_secrets import policy
from pg_secrets.clock import Clock
from pg_secrets.credentials import Credentials
from pg_secrets.episode import RejectionEpisode
from pg_secrets.errors import CredentialsError, CredentialsInvalid, CredentialsUnavailable
from pg_secrets.events import CredentialEvent, EventKind, Listeners
from pg_secrets.flight import Flight
from pg_secrets.guard import GuardedAdapter, again
from pg_secrets.leases import LeaseBook
from pg_secrets.snapshot import NEVER, Moment, Snapshot, take

CURRENT = "current"
#: Events that are remembered, for whoever asks what happened lately.
_REMEMBERED = 10


class CredentialCache:
    """One snapshot with its timetable, at most one journey to the store at a time.

    ``lock`` guards all of it; nothing blocks while it is held. Methods named in the imperative of
    a journey (``_travel`` and below) run in a flight's thread.
    """

    def __init__(
        self,
        adapter: GuardedAdapter,
        *,
        ttl: float | None,
        background: bool,
        clock: Clock,
        random: Random | None,
        wake: Callable[[], None],
        landed: Callable[[], None],
    ) -> None:
        self.adapter = adapter
        self.ttl = ttl
        self.background = background
        self.clock = clock
        self.listeners = Listeners()
        self.counts: Counter[str] = Counter()
        self.recent: deque[CredentialEvent] = deque(maxlen=_REMEMBERED)
        self.generation = 0
        self.snapshot: Snapshot | None = None
        self.closed = False
        self._random = random or Random()  # noqa: S311 - jitter, not secrets
        self._reseeds = random is None
        self._wake = wake
        self._landed = landed
        self.reset()

    def reset(self) -> None:
        """Begin with nothing under way: at birth, and in the child of a fork."""
        self.lock = threading.Lock()
        self.book = LeaseBook(self._wake)
        self.episode = RejectionEpisode()
        self.fresh: TLRUCache[str, Credentials] = TLRUCache(
            maxsize=1, ttu=self._fresh_until, timer=self.clock.monotonic
        )
        self.flight: Flight | None = None
        self.failures = 0
        self.error: CredentialsError | None = None
        self.retry_at = -NEVER
        self._fetched_at = -NEVER
        self._look_at = -NEVER
        self._expiry_noted = False
        self._outbox: deque[CredentialEvent] = deque()

    def after_fork(self) -> None:
        """Become the child's: its own locks and jitter, and leases of its own."""
        if self.snapshot is not None and self.snapshot.credentials.lease is not None:
            self.snapshot = None
        if self._reseeds:
            self._random.seed()
        self.adapter.forked()
        self.reset()

    def now(self) -> Moment:
        return Moment(self.clock.monotonic(), self.clock.time())

    def current(self) -> Credentials | None:
        """Return what look-ups may use without looking any further; needs no lock."""
        try:
            held = self.fresh[CURRENT]
        except KeyError:
            return None
        # The monotonic clock, by which it is fresh, stands still while the machine is suspended.
        ends = held.expires_at
        return held if ends is None or self.clock.time() < ends else None

    # what is held; called with the lock held ----------------------------------------------

    def usable(self, now: Moment) -> Credentials | None:
        """Return what may still be used."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        if not snapshot.expired(now):
            return snapshot.credentials
        self.fresh.clear()
        if not self._expiry_noted:
            self._expiry_noted = True
            self.announce("expired", snapshot.credentials.generation)
        return None

    def due(self, now: Moment) -> bool:
        """Say whether it is time to go to the store."""
        if now.monotonic < self.retry_at:
            return False
        snapshot = self.snapshot
        if snapshot is None or snapshot.expired(now) or self.poll_due(now) or self._look_due(now):
            return True
        return snapshot.action(now) is not None

    def poll_due(self, now: Moment) -> bool:
        """Say whether the store is to be asked because the server refused what is held."""
        return now.monotonic >= self.retry_at and self.episode.due(now.monotonic)

    def _look_due(self, now: Moment) -> bool:
        """Say whether the adapter is to be asked if the store has something newer."""
        return self.adapter.notices_change and now.monotonic >= self._look_at

    def next_look(self, now: Moment) -> float:
        """Return the monotonic time at which something may be due."""
        polls = [max(self.episode.poll_at, self.retry_at)] if self.episode.pending else []
        if self.snapshot is None:
            return min([self.retry_at, *polls])
        if self.adapter.notices_change:
            polls.append(max(self._look_at, self.retry_at))
        left = self.snapshot.remaining(now)
        if left > 0.0:
            polls.append(now.monotonic + left)
        # What has ended waits for the next try alone: its end would be due again at every look.
        due = now.monotonic if left <= 0.0 else self.snapshot.due_at()
        return min([max(due, self.retry_at), *polls])

    def _fresh_until(self, _key: str, _value: Credentials, now: float) -> float:
        """Return until when look-ups need not look any further (cachetools' time-to-use)."""
        snapshot = self.snapshot
        if snapshot is None:
            return now
        until = max(snapshot.due_at(), self.retry_at)
        if self.episode.pending:
            until = min(until, self.episode.poll_at)
        if self.adapter.notices_change and not self.background:
            until = min(until, max(self._look_at, self.retry_at))
        return min(until, snapshot.expires_at)

    def put(self, snapshot: Snapshot) -> None:
        """Hold this from now on."""
        self.snapshot = snapshot
        # Setting what is stale already does not replace what was there in every cachetools.
        self.fresh.clear()
        if not self.closed:
            self.fresh[CURRENT] = snapshot.credentials

    def launch(self, deadline: float, *, forced: bool = False) -> Flight:
        """Join the journey under way or begin one, repeated until ``deadline`` while it fails."""
        if self.flight is None:
            flight = Flight(self.clock, deadline=deadline, forced=forced)
            try:
                flight.start(self._travel)
            except RuntimeError:
                raise CredentialsUnavailable("no thread can be started at exit") from None
            self.flight = flight
        self.flight.deadline = max(self.flight.deadline, deadline)
        self.flight.forced |= forced
        return self.flight

    def begin(self) -> Flight | None:
        """Begin what is due, or nothing where no thread can be started: what is held has to do."""
        with suppress(CredentialsUnavailable):
            return self.launch(-NEVER)
        return None

    def need(self, now: Moment, deadline: float) -> Flight:
        """Return the journey that everybody waits for, since there is nothing to use."""
        error = self.error
        if self.flight is None and error is not None and now.monotonic < self.retry_at:
            if not isinstance(error, CredentialsUnavailable):
                raise again(error)
            if self.retry_at > deadline:
                seconds = self.retry_at - now.monotonic
                raise CredentialsUnavailable(
                    f"{error} (tried {self.failures} times; next try in {seconds:.0f} s)"
                ) from error.__cause__
        return self.launch(deadline)

    def announce(
        self, kind: EventKind, generation: int, error: CredentialsError | None = None
    ) -> None:
        """Note an event, for :meth:`deliver` to tell once the lock is released."""
        self.counts[kind] += 1
        event = CredentialEvent(kind, generation, self.clock.time(), error)
        self.recent.append(event)
        self._outbox.append(event)

    # without the lock ---------------------------------------------------------------------

    def deliver(self) -> None:
        """Tell the listeners what was noted."""
        while self._outbox:
            try:
                event = self._outbox.popleft()
            except IndexError:
                return
            self.listeners.emit(event)

    def _travel(self, flight: Flight) -> None:
        try:
            not_before = -NEVER
            while True:
                error = self._visit(flight, not_before)
                with self.lock:
                    not_before = self.retry_at
                    done = flight.fetched or not flight.forced
                    lasting = not isinstance(error, CredentialsUnavailable)
                    if (done and lasting) or self.closed or not_before > flight.deadline:
                        flight.error = error
                        self.flight = None
                        break
            self.deliver()
        finally:
            with self.lock:
                if self.flight is flight:
                    self.flight = None
            self._landed()

    def _visit(self, flight: Flight, not_before: float) -> CredentialsError | None:
        flight.pause_until(not_before)
        held, errand = self.snapshot, self._errand(flight)
        if held is not None and errand == "renew":
            over, error = self._renew(held)
            if over:
                return error
        if held is not None and errand == "look" and not self._changed(held):
            return None
        flight.pause_until(self._fetched_at + policy.FETCH_SPACING)
        flight.fetched = True
        started = self.now()
        with self.lock:
            self._fetched_at = started.monotonic
            self._look_at = started.monotonic + policy.CHANGE_POLL
            self.episode.polled(started.monotonic)
            self.counts["fetches"] += 1
        try:
            self._accept(self.adapter.fetch(), started)
        except CredentialsError as failure:
            self._failed(failure, "stale_served")
            return failure
        return None

    def _errand(self, flight: Flight) -> Literal["fetch", "renew", "look"]:
        """Say what to go for; a look may turn out to be worth a fetch."""
        held, now = self.snapshot, self.now()
        if held is None or flight.forced or held.expired(now) or self.poll_due(now):
            return "fetch"
        action = held.action(now)
        if action is None and self._look_due(now):
            return "look"
        # What the server refuses is not worth a renewal.
        return "renew" if action == "renew" and not self.episode.pending else "fetch"

    def _changed(self, held: Snapshot) -> bool:
        with self.lock:
            self._look_at = self.clock.monotonic() + policy.CHANGE_POLL
        return self.adapter.changed(held.credentials)

    def _accept(self, fetched: Credentials, started: Moment) -> None:
        with self.lock:
            old = self.snapshot
            same = old is not None and old.credentials.fingerprint == fetched.fingerprint
            generation = self.generation if same else self.generation + 1
            snapshot = self._take(fetched, started, generation)
            if snapshot.expired(self.now()):
                raise CredentialsInvalid(
                    f"adapter {self.adapter.name!r} returned credentials that have expired;"
                    " either the store is late or the clocks differ"
                )
            self.book.add(snapshot.credentials)
            if self.closed:
                self.book.supersede(snapshot.credentials, unused=True)
                raise CredentialsError("the source was closed meanwhile")
            self.generation = generation
            self._succeeded(snapshot)
            if not same:
                self.episode.replaced()
            kind: EventKind = "fetched" if old is None else "unchanged" if same else "rotated"
            self.announce(kind, generation)
        if old is not None and not same:
            self.book.supersede(old.credentials)

    def _renew(self, held: Snapshot) -> tuple[bool, CredentialsError | None]:
        """Extend the lease; return whether the visit is over, and its error."""
        started = self.now()
        generation = held.credentials.generation
        error: CredentialsError | None = None
        renewed: Credentials | None = None
        try:
            renewed = self.adapter.renew(held.credentials)
        except CredentialsError as failure:
            error = failure
        if isinstance(error, CredentialsUnavailable):
            self._failed(error, "renew_failed")
            return True, error
        with self.lock:
            if renewed is None or renewed.fingerprint != held.credentials.fingerprint:
                self.announce("renew_failed", generation, error)
                snapshot = held.renewal_refused()
            else:
                snapshot = held.renewed_as(self._take(renewed, started, generation))
                self.book.renewed(snapshot.credentials)
                self.announce("renewed", generation)
            current = self.snapshot
            if current is not None and current.credentials.generation == generation:
                self._succeeded(snapshot)
            return snapshot.action(self.now()) is None, None

    def _take(self, credentials: Credentials, started: Moment, generation: int) -> Snapshot:
        return take(
            credentials,
            started=started,
            generation=generation,
            ttl=self.ttl,
            renewable=self.adapter.renews,
            jitter=self._random.random(),
        )

    def _succeeded(self, snapshot: Snapshot) -> None:
        self.failures = 0
        self.error = None
        self.retry_at = -NEVER
        self._expiry_noted = False
        self.put(snapshot)

    def _failed(self, error: CredentialsError, kind: EventKind) -> None:
        now = self.now()
        with self.lock:
            self.failures += 1
            self.counts["errors"] += 1
            self.error = error
            snapshot = self.snapshot
            left = NEVER if snapshot is None else snapshot.remaining(now)
            pause = policy.backoff(self.failures, self._random.random(), left)
            self.retry_at = max(now.monotonic + pause, self._fetched_at + policy.FETCH_SPACING)
            if snapshot is None or self.usable(now) is None:
                return
            if kind == "renew_failed":
                snapshot = snapshot.renewal_missed()
            self.put(snapshot)
            self.announce(kind, snapshot.credentials.generation, error)
