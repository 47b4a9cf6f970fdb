"""The boundary to an adapter: one call at a time, one family of errors, no secrets in frames."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections.abc import Callable
from typing import TypeVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsError, CredentialsInvalid, CredentialsUnavailable
from pg_secrets.redaction import scrubbed

logger = logging.getLogger("pg_secrets")

T = TypeVar("T")


class GuardedAdapter:
    """Calls an adapter as its contract says: never two calls at a time.

    Raises only what :func:`guarded` does. Thread-safe.
    """

    def __init__(self, adapter: CredentialAdapter) -> None:
        self.adapter = adapter
        self._calls = threading.Lock()
        kind = type(adapter)
        # One that stands before another is called what that one is called.
        wrapped: CredentialAdapter = getattr(adapter, "wraps", adapter)
        self.name = wrapped.name or type(wrapped).__name__
        self.renews = kind.renew is not CredentialAdapter.renew
        self.notices_change = kind.changed is not CredentialAdapter.changed

    def fetch(self) -> Credentials:
        return self._checked(self._call(self.adapter.fetch))

    def renew(self, credentials: Credentials) -> Credentials | None:
        renewed = self._call(lambda: self.adapter.renew(credentials))
        return None if renewed is None else self._checked(renewed)

    def revoke(self, credentials: Credentials, timeout: float = -1) -> None:
        self._call(lambda: self.adapter.revoke(credentials), timeout)

    def changed(self, credentials: Credentials) -> bool:
        """Ask without waiting; an adapter that is busy or fails has not changed."""
        try:
            return bool(self._call(lambda: self.adapter.changed(credentials), 0.0))
        except CredentialsError:
            return False

    def rejected(self, credentials: Credentials) -> None:
        """Pass it on without waiting for a call that is under way."""
        try:
            guarded(self.name, lambda: self.adapter.rejected(credentials))
        except CredentialsError as error:
            logger.warning("adapter %r did not note a rejection: %s", self.name, error)

    def close(self) -> None:
        self._call(self.adapter.close)

    def forked(self) -> None:
        """Give the child of a fork a lock of its own and let the adapter drop its sockets."""
        self._calls = threading.Lock()
        try:
            self._call(self.adapter.forked)
        except CredentialsError as error:
            logger.warning("adapter %r could not be readied after a fork: %s", self.name, error)

    def _call(self, method: Callable[[], T], timeout: float = -1) -> T:
        if not self._calls.acquire(timeout=timeout):
            raise CredentialsUnavailable(f"adapter {self.name!r} is busy")
        try:
            return guarded(self.name, method)
        finally:
            self._calls.release()

    def _checked(self, credentials: object) -> Credentials:
        if not isinstance(credentials, Credentials):
            raise CredentialsInvalid(
                f"adapter {self.name!r} returned a {type(credentials).__name__}, not Credentials"
            )
        lease = credentials.lease
        if lease is not None and not (_is_number(lease.duration) and lease.duration > 0):
            raise CredentialsInvalid(f"adapter {self.name!r} returned a lease without a duration")
        for field in ("expires_at", "refresh_at"):
            value = getattr(credentials, field)
            if value is not None and not _is_number(value):
                raise CredentialsInvalid(f"adapter {self.name!r} returned no time in {field}")
        return credentials


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _place(error: BaseException) -> str:
    """Return " at file:line" of where it was raised, which no secret can hide in."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return ""
    return f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"


def guarded(
    name: str, call: Callable[[], T], otherwise: type[CredentialsError] = CredentialsInvalid
) -> T:
    """Return what a call into an adapter's own code returns.

    Raises:
        CredentialsError: as the adapter does, or for anything else ``otherwise``, which says where
            it was raised; without frames, as those of an adapter hold passwords and tokens.
    """
    failure: CredentialsError
    try:
        return call()
    except CredentialsError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - a stranger's code, and its text may hold a secret
        failure = otherwise(
            f"adapter {name!r} failed with {type(error).__name__}{_place(error)};"
            " adapters raise the CredentialsError family only"
        )
    raise scrubbed(failure)


def again(error: CredentialsError) -> CredentialsError:
    """Return a copy to raise: one instance raised in many threads would mix their tracebacks."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - a subclass with a constructor of its own
        return error
    twin.__cause__ = error.__cause__
    twin.__traceback__ = None
    return twin
