"""An adapter that does what a test tells it to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import CredentialsError
from pg_secrets.options import Options

Outcome = Credentials | None | CredentialsError | Callable[[], Any]


STATIC = Credentials(user="app", password="secret-1")  # noqa: S106


class ScriptedAdapter(CredentialAdapter):
    """Answers from a script: credentials, errors to raise, or functions to call.

    The last outcome of ``script`` (by default :data:`STATIC`) is repeated. ``renewals`` is the
    script of renewing; without one every renewal is refused. Set :attr:`newer` for what
    ``changed()`` says. While :attr:`answering` is cleared, calls block. Thread-safe.
    """

    name = "scripted"

    def __init__(
        self,
        script: Iterable[Outcome] | Outcome = None,
        *,
        renewals: Iterable[Outcome] = (),
        ttl: float | None = None,
    ) -> None:
        self.ttl = ttl
        self._condition = threading.Condition()
        self.script: list[Outcome] = _listed(script or STATIC)
        self.renewals: list[Outcome] = list(renewals)
        self.newer: bool | None = None
        self.answering = threading.Event()
        self.answering.set()
        self.fetches = 0
        self.renewed = 0
        self.looked = 0
        self.forks = 0
        self.closed = 0
        self.revoked: list[Credentials] = []
        #: The most calls that ever ran at the same time.
        self.overlap = 0
        self._running = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ScriptedAdapter:
        options = Options(config, adapter=cls.name)
        user, password = options.text("USER", "app"), options.text("PASSWORD", "secret-1")
        options.finish()
        return cls(Credentials(user=user, password=password))

    def then(self, *script: Outcome) -> None:
        """Answer with these from now on."""
        with self._condition:
            self.script = list(script)

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until something was asked of this adapter; fail after ``timeout`` real seconds."""
        with self._condition:
            if not self._condition.wait_for(predicate, timeout):
                raise AssertionError("the adapter was not asked as expected")

    def fetch(self) -> Credentials:
        with self._condition:
            self.fetches += 1
            outcome = _next(self.script)
        result = self._answer(outcome)
        assert result is not None
        return result

    def renew(self, credentials: Credentials) -> Credentials | None:
        with self._condition:
            self.renewed += 1
            outcome = _next(self.renewals) if self.renewals else None
        return self._answer(outcome)

    def revoke(self, credentials: Credentials) -> None:
        self._answer(None)
        with self._condition:
            self.revoked.append(credentials)
            self._condition.notify_all()

    def changed(self, credentials: Credentials) -> bool | None:
        with self._condition:
            self.looked += 1
            self._condition.notify_all()
        return self.newer

    def forked(self) -> None:
        self._condition = threading.Condition()
        self.forks += 1

    def close(self) -> None:
        with self._condition:
            self.closed += 1
            self._condition.notify_all()

    def _answer(self, outcome: Outcome) -> Credentials | None:
        with self._condition:
            self._running += 1
            self.overlap = max(self.overlap, self._running)
            self._condition.notify_all()
        try:
            if not self.answering.wait(30.0):
                raise AssertionError("the test never let the adapter answer")
            result = outcome() if callable(outcome) else outcome
            if isinstance(result, BaseException):
                raise result
            return result
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()


def leases(duration: float = 3600.0, *, renewable: bool = True) -> Callable[[], Credentials]:
    """Return an outcome that hands out a new user with a new lease at every fetch."""
    numbers = itertools.count(1)

    def hand_out() -> Credentials:
        number = next(numbers)
        lease = Lease(id=f"lease-{number}", duration=duration, renewable=renewable)
        return Credentials(user=f"v-{number}", password=f"secret-{number}", lease=lease)

    return hand_out


def _listed(script: Iterable[Outcome] | Outcome) -> list[Outcome]:
    if callable(script) or isinstance(script, (Credentials, CredentialsError)) or script is None:
        return [script]
    return list(script)


def _next(script: list[Outcome]) -> Outcome:
    return script.pop(0) if len(script) > 1 else script[0]
