"""Requests made as somebody: keeps a good token, and knows which leases hang on which."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pg_secrets.errors import CredentialsError
from pg_secrets.vault.auth_method import AuthMethod, number
from pg_secrets.vault.client import VaultAddress, VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.token import Token
from pg_secrets.vault_wrapping import Wrapping

if TYPE_CHECKING:
    import hvac

    Call = Callable[[hvac.Client], Any]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds until a renewal of the token that did not succeed is tried again.
_RETRY = 10.0


class VaultSession:
    """Sends requests with a token that is logged in for, renewed and replaced as needed.

    A token is renewed, or replaced where it cannot be, at 70 % of its life; after a 403 it is
    replaced once. Thread-safe: requests are made one at a time. In a forked child it begins anew,
    without a socket or a token of its parent's.
    """

    def __init__(
        self, address: VaultAddress, auth: AuthMethod, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.address = address
        self.auth = auth
        self.clock = clock
        self._token: Token | None = None
        self._superseded: list[Token] = []
        #: By lease id: the token the lease hangs on, and when it ends.
        self._leases: dict[str, tuple[Token, float]] = {}
        self._begin()

    def __repr__(self) -> str:
        shown = (self.address.url, self.address.namespace, f"auth={self.auth.name}")
        return f"<VaultSession {' '.join(filter(None, shown))}>"

    def request(
        self, call: Call, *, again: bool = True, lasting: float = 0.0, new_lease: bool = False
    ) -> Answer:
        """Make a request; after a 403 once more, with another token, unless told not ``again``.

        A token that would end within ``lasting`` seconds, and what it is asked for with it, is
        renewed first where it can be. One that cannot be, and whose life is half over, is replaced
        before a ``new_lease`` is hung on it.

        Raises:
            CredentialsUnavailable: nothing came back.
            CredentialsError: logging in failed.
        """
        self._begin_after_fork()
        with self._lock:
            token = self._good_token(lasting, new_lease)
            answer = self._client.send(call, token=token.value)
            if not (again and answer.refuses(403)):
                return answer
            other = self.auth.log_in_again(self._client, self.clock, token)
            if other is None:
                return answer
            self._adopt(other)
            return self._client.send(call, token=other.value)

    def unwrapped(self, wrapping: Wrapping[T], given: str) -> T:
        """Return what is in a wrapping token, which needs no other token.

        Raises:
            CredentialsError: as :meth:`Wrapping.content` does.
        """
        self._begin_after_fork()
        with self._lock:
            return wrapping.content(self._client, given)

    # leases -------------------------------------------------------------------------------

    def bind(self, lease_id: str, duration: float, asked_at: float) -> float:
        """Note a lease's life, and return how long it lasts: a lease ends with its token.

        A new lease hangs on the present token, a known one on the token it was granted to.
        """
        with self._lock:
            now = self.clock()
            self._leases = {key: held for key, held in self._leases.items() if held[1] > now}
            token = self._leases.get(lease_id, (self._token, 0.0))[0]
            if token is None:
                return duration
            self._leases[lease_id] = (token, asked_at + duration)
            self._superseded = [old for old in self._superseded if not old.expired(now)]
            if token.expires_at is None:
                return duration
            return max(0.0, min(duration, token.expires_at - asked_at))

    def release(self, lease_id: str) -> None:
        """Forget a lease that was given back."""
        with self._lock:
            self._leases.pop(lease_id, None)

    def ground(self, lease_id: str) -> Mapping[str, Any] | None:
        """Return the token that a lease hangs on, for another process; from now on it is shared.

        Shared tokens are not revoked when they are replaced: leases of other processes hang on
        them that this one does not know of.
        """
        with self._lock:
            self._shared = True
            held = self._leases.get(lease_id)
            return None if held is None else asdict(held[0])

    def take_ground(self, lease_id: str, ends_at: float, ground: Mapping[str, Any]) -> None:
        """Take over the token that a lease hangs on, as another process left it."""
        self._begin_after_fork()
        with self._lock:
            self._shared = True
            given = Token(**ground)
            known = (self._token, *self._superseded, *(token for token, _ in self._leases.values()))
            token = next((old for old in known if old and old.value == given.value), None)
            if token is None:
                token = given
                self._adopt(token)
            else:
                token.since, token.life = given.since, given.life
                token.renewable = given.renewable
            self._leases[lease_id] = (token, ends_at)

    def leave(self) -> None:
        """Close the sockets, and leave all tokens to those who share them."""
        if os.getpid() == self._pid:
            with self._lock:
                self._client.close()

    @property
    def token_due_at(self) -> float | None:
        """When the token should be renewed, so that somebody comes back for it in time."""
        token = self._token
        if token is None or not (token.renewable or self.auth.repeatable):
            return None
        if token.due_at is None or token.expires_at is None:
            return None
        # One that is overdue was not renewed when it was tried: there may be no other one.
        return min(max(token.due_at, self.clock() + _RETRY), token.expires_at)

    def close(self) -> None:
        """Revoke the tokens that were logged in for, their leases with them, and close sockets."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            tokens = [*self._superseded, self._token]
            self._superseded, self._token = [], None
            try:
                for token in tokens:
                    if token is not None:
                        self._revoke(token)
            finally:
                self._client.close()

    def _begin_after_fork(self) -> None:
        if os.getpid() != self._pid:
            self._begin()

    # tokens -------------------------------------------------------------------------------

    def _begin(self) -> None:
        # A lock taken by another thread of the parent would never be released in a child, and its
        # sockets are the parent's conversation. The objects are dropped, nothing is sent.
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._client = VaultClient(self.address)
        self._token, self._superseded, self._leases = None, [], {}
        self._shared = False

    def _good_token(self, lasting: float, new_lease: bool) -> Token:
        token, now = self._token, self.clock()
        if token is None or token.expired(now):
            return self._log_in()
        if self.auth.changed():
            return self._log_in_early(token)
        due = token.due(now)
        wanted = due or token.expired(now + lasting)
        if wanted and token.renewable and self._renew(token, now):
            return token
        # A new token is of no use to a lease of the present one.
        old = due or (new_lease and token.too_old_for_leases(now))
        return self._log_in_early(token) if old and self.auth.repeatable else token

    def _log_in(self) -> Token:
        token = self.auth.log_in(self._client, self.clock)
        self._adopt(token)
        return self._token or token

    def _log_in_early(self, token: Token) -> Token:
        """Return a new token, or the old one for as long as it is good."""
        try:
            return self._log_in()
        except CredentialsError as error:
            logger.warning("Vault login failed, the present token is used till it ends: %s", error)
            return token

    def _renew(self, token: Token, now: float) -> bool:
        """Renew; return whether it was worth it, or could not be found out."""
        answer = self._client.send(lambda vault: vault.auth.token.renew_self(), token=token.value)
        auth = answer.body.get("auth")
        life = number(auth.get("lease_duration")) if isinstance(auth, dict) else None
        if answer.ok and life:
            return token.extend(life, now)
        if answer.refuses(400, 403):
            token.renewable = False
            return False
        return True

    def _adopt(self, token: Token) -> None:
        old = self._token
        if old is not None and old.value == token.value:
            # Leases refer to the object: the same token stays the same object.
            old.since, old.life, old.renewable = token.since, token.life, token.renewable
            return
        self._token = token
        if old is None or not old.owned:
            return
        if self._shared or any(held[0] is old for held in self._leases.values()):
            self._superseded.append(old)
            return
        self._revoke(old)

    def _revoke(self, token: Token) -> None:
        if not token.owned or token.expired(self.clock()):
            return
        try:
            self._client.send(lambda vault: vault.auth.token.revoke_self(), token=token.value)
        except CredentialsError as error:
            logger.info("A Vault token could not be revoked: %s", error)
