"""One lease for all processes of a host, instead of one for each."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, ClassVar

from pg_secrets import policy
from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import AdapterMisconfigured, CredentialsUnavailable
from pg_secrets.redaction import stripping
from pg_secrets.shared_folder import Entry, Membership, SharedFolder, check_folder

logger = logging.getLogger(__name__)

#: Seconds to wait for another process that is asking the store, and for one at the very end.
PATIENCE = 10.0
_PATIENCE_AT_THE_END = 1.0
#: A lease with less than this share of its life left is not worth taking over.
_WORTH_TAKING = 0.1
#: Seconds by which an expiry has to have moved for a lease to count as renewed.
_MOVED = 0.5
_OBJECT = re.compile(r" at 0x[0-9a-fA-F]+")


class SharedAdapter(CredentialAdapter):
    """Asks an adapter of which a folder says that no other process has asked yet.

    The one that fetches writes what it got into a file; the others wait for it and read. Whoever
    comes first renews for all. Whoever leaves last gives back. Where an adapter grants no lease
    nothing is shared. Made by the option ``SHARED``; not to be used by two threads at once.
    """

    name: ClassVar[str] = "shared"

    def __init__(
        self,
        adapter: CredentialAdapter,
        directory: Path,
        key: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ttl = adapter.ttl
        self._directory = directory
        self.wraps = adapter
        self._folder = SharedFolder(directory, key)
        self._clock = clock
        self._members: Membership | None = None
        #: By lease: that we use it, and when it ends as far as we know.
        self._users: dict[str, tuple[Membership, float]] = {}
        #: The lease handed out last and when it ends, and one that the database refused.
        self._lease: str | None = None
        self._expires_at = 0.0
        self._refused: str | None = None

    def __repr__(self) -> str:
        return f"<SharedAdapter {self.wraps!r} {self._folder!r}>"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SharedAdapter:
        """Refuse: this is no adapter to be named, but the option ``SHARED`` of all of them."""
        raise AdapterMisconfigured("'shared' is no adapter; give another one the option SHARED")

    @stripping
    def fetch(self) -> Credentials:
        """Return what another process fetched, unless we know it already; else ask.

        Raises:
            AdapterMisconfigured: the folder is not there, or not this user's alone.
            CredentialsUnavailable: another process has been asking for too long.
            CredentialsError: what the adapter raises.
        """
        check_folder(self._directory)
        with self._folder.locked(PATIENCE):
            entry = self._folder.read()
            if entry is not None and self._is_news(entry):
                return self._take(entry)
            if entry is not None:
                self._restore(entry)
            now = self._clock()
            fetched = self.wraps.fetch()
            if fetched.lease is None:
                return fetched
            entry = Entry.of(fetched, fetched.lease.duration, now, self._ground(fetched))
            self._folder.sweep()
            return self._take(entry) if self._written(entry) else fetched

    @stripping
    def renew(self, credentials: Credentials) -> Credentials | None:
        """Renew for all, unless another process just did; ``None`` if it was replaced meanwhile."""
        lease = credentials.lease
        if lease is None or lease.id not in self._users:
            return self.wraps.renew(credentials)
        with self._folder.locked(PATIENCE):
            entry = self._folder.read()
            if entry is None or entry.lease != lease.id:
                return None
            # What another process got a while ago would look as if the store had cut it short.
            left = entry.expires_at - self._clock()
            if not self._is_later(entry) or left < policy.FULL_GRANT * entry.granted:
                renewed = self._renewed(entry)
                if renewed is None:
                    return None
                entry = renewed
            return self._take(entry)

    @stripping
    def revoke(self, credentials: Credentials) -> None:
        """Use it no more; whoever is the last to say so gives it back."""
        lease = credentials.lease
        using = self._users.pop(lease.id, None) if lease is not None else None
        if using is None:
            self.wraps.revoke(credentials)
            return
        user, _ = using
        try:
            with self._folder.locked(_PATIENCE_AT_THE_END):
                if user.is_last():
                    user.leave(remove=True)
                    self._give_back(credentials)
        finally:
            user.leave()

    def changed(self, credentials: Credentials) -> bool | None:
        """Say whether another process has fetched a new lease, or renewed this one."""
        if credentials.lease is None:
            return self.wraps.changed(credentials)
        if not self._folder.moved():
            return False
        entry = self._folder.read()
        if entry is None:
            return False
        return entry.lease != credentials.lease.id or self._is_later(entry)

    def rejected(self, credentials: Credentials) -> None:
        """Take this lease from nobody again."""
        if credentials.lease is not None:
            self._refused = credentials.lease.id
        self.wraps.rejected(credentials)

    def policy(self) -> str | None:
        """Return what the adapter needs."""
        return self.wraps.policy()

    def forked(self) -> None:
        """Leave the parent's locks to the parent."""
        for membership, _ in self._users.values():
            membership.drop()
        if self._members is not None:
            self._members.drop()
        self._users, self._members = {}, None
        self._lease, self._expires_at, self._refused = None, 0.0, None
        self._folder.after_fork()
        self.wraps.forked()

    @stripping
    def close(self) -> None:
        """Close the adapter; what leases hang on stays where another process is still there."""
        members, self._members = self._members, None
        last = members is None
        if members is not None:
            try:
                with self._folder.locked(_PATIENCE_AT_THE_END):
                    last = members.is_last()
                    members.leave()
            except CredentialsUnavailable:
                members.leave()
        if last:
            self.wraps.close()
        else:
            self.wraps.leave()

    def _is_news(self, entry: Entry) -> bool:
        left = entry.expires_at - self._clock()
        if entry.lease == self._refused or left <= _WORTH_TAKING * entry.granted:
            return False
        return entry.lease != self._lease or self._is_later(entry)

    def _is_later(self, entry: Entry) -> bool:
        return entry.expires_at > self._expires_at + _MOVED

    def _take(self, entry: Entry) -> Credentials:
        if self._members is None:
            self._members = self._folder.member()
        now = self._clock()
        known = self._users.get(entry.lease)
        user = self._folder.member(entry.lease) if known is None else known[0]
        self._users[entry.lease] = user, entry.expires_at
        self._leave_ended(now)
        self._lease, self._expires_at = entry.lease, entry.expires_at
        return entry.credentials(max(entry.expires_at - now, 0.001))

    def _leave_ended(self, now: float) -> None:
        # What has ended is given back by nobody.
        for lease in [lease for lease, (_, ends) in self._users.items() if ends <= now]:
            user, _ = self._users.pop(lease)
            user.leave(remove=user.is_last())

    def _renewed(self, entry: Entry) -> Entry | None:
        self._restore(entry)
        now = self._clock()
        renewed = self.wraps.renew(entry.credentials(entry.granted))
        if renewed is None or renewed.lease is None:
            return None
        found = Entry.of(renewed, entry.granted, now, self._ground(renewed))
        self._written(found)
        return found

    def _give_back(self, credentials: Credentials) -> None:
        entry = self._folder.read()
        if entry is not None and credentials.lease and entry.lease == credentials.lease.id:
            self._restore(entry)
            self._folder.forget()
        self.wraps.revoke(credentials)

    def _ground(self, credentials: Credentials) -> Mapping[str, Any] | None:
        return self.wraps.lease_ground(credentials)

    def _restore(self, entry: Entry) -> None:
        if entry.ground is None:
            return
        try:
            self.wraps.take_ground(entry.credentials(entry.granted), entry.ground)
        except (TypeError, ValueError, LookupError):
            # Another version wrote it, or somebody by hand: this process asks as itself.
            logger.warning("%r: what the lease hangs on is not understood", self._folder)

    def _written(self, entry: Entry) -> bool:
        try:
            self._folder.write(entry)
        except (OSError, TypeError, ValueError) as error:
            # What is held is good all the same, for this process.
            logger.warning("%r cannot be written to: %s", self._folder, type(error).__name__)
            return False
        return True


def shared_key(name: str, settings: Mapping[str, Any], adapter: CredentialAdapter) -> str:
    """Return what equal configurations have in common, and others have not.

    What comes from the environment, such as an address, is seen in the adapter's ``repr``.

    Raises:
        AdapterMisconfigured: an object stands in the settings, which no other process can compare.
    """
    shown = _OBJECT.sub("", repr(adapter))
    text = "\0".join(("1", name, shown, _canonical(settings)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _canonical(value: object) -> str:
    if isinstance(value, Mapping):
        items = sorted((str(key), _canonical(item)) for key, item in value.items())
        return f"{{{','.join(f'{key!r}:{item}' for key, item in items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, PurePath):
        value = str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return repr(value)
    raise AdapterMisconfigured(
        f"option SHARED: the settings hold a {type(value).__name__}, and only words, numbers, lists"
        " and mappings are the same in every process"
    )
