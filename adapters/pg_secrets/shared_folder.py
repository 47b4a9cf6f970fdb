"""A folder in which the processes of one user on one host share a lease: its file and its locks.

Locks are ``flock``'s: the kernel releases them when a process ends, whatever way it does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import AdapterMisconfigured, CredentialsError, CredentialsUnavailable
from pg_secrets.secret_file import FileIdentity, identify, read_secret_file

#: Seconds between two tries to get a lock that somebody else has: flock knows no time-out.
_RETRY = 0.02
_PRIVATE = 0o600
_NAME_LENGTH = 16


@dataclass(frozen=True)
class Entry:
    """What the file holds: a login with its lease, and what the lease hangs on (``ground``).

    ``granted`` is how many seconds the lease was given for at first.
    """

    lease: str = field(repr=False)
    granted: float
    renewable: bool
    expires_at: float
    user: str | None
    password: str | None = field(repr=False)
    parameters: Mapping[str, Any]
    version: str | None = None
    refresh_at: float | None = None
    ground: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, credentials: Credentials, granted: float, now: float, ground: Mapping[str, Any] | None
    ) -> Entry:
        """Build from what was fetched or renewed just ``now``; there is a lease."""
        lease = credentials.lease
        assert lease is not None  # noqa: S101 - for the type checker; callers have looked
        ends = credentials.expires_at
        return cls(
            lease=lease.id,
            granted=granted,
            renewable=lease.renewable,
            expires_at=now + lease.duration if ends is None else min(ends, now + lease.duration),
            user=credentials.user,
            password=credentials.password,
            parameters=dict(credentials.parameters),
            version=credentials.version,
            refresh_at=credentials.refresh_at,
            ground=ground,
        )

    def credentials(self, duration: float) -> Credentials:
        """Return the login, with a lease of so many seconds."""
        return Credentials(
            user=self.user,
            password=self.password,
            parameters=self.parameters,
            version=self.version,
            expires_at=self.expires_at,
            refresh_at=self.refresh_at,
            lease=Lease(self.lease, duration, self.renewable),
        )


class Membership:
    """A shared lock on a file, which says that this process uses what the file stands for.

    Got, and asked whether it is the last, while the folder is locked: so it has to wait for nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = _open(path)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Say whether nobody else is a member; to be asked once, just before :meth:`leave`."""
        # Turning the lock round may lose it: whoever asks is about to leave.
        return self._handle is not None and _locked(self._handle, fcntl.LOCK_EX)

    def leave(self, *, remove: bool = False) -> None:
        """Be a member no more, and ``remove`` the file; may be called twice."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        # A child that inherited the handle would keep the lock if it were only closed.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)

    def drop(self) -> None:
        """Forget it, in the child of a fork: the parent is still a member."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


class SharedFolder:
    """The files of one configuration in a folder; ``key`` tells it from others.

    All but :meth:`moved` is to be called within :meth:`locked`. Not thread-safe.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        self._key = key
        self._file = directory / f"{key}.json"
        self._identity: FileIdentity | None = None
        self._mutex: int | None = None

    def __repr__(self) -> str:
        return f"<SharedFolder {self._directory}>"

    @contextmanager
    def locked(self, timeout: float) -> Iterator[None]:
        """Let no other process at it meanwhile.

        Raises:
            CredentialsUnavailable: another process had it for ``timeout`` seconds, or the folder
                is not there any more.
        """
        self._mutex = handle = _open(self._directory / f"{self._key}.lock")
        try:
            self._lock(handle, timeout)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            # In the child of a fork the handle is closed already, and its number may be another's.
            if self._mutex == handle:
                self._mutex = None
                os.close(handle)

    def read(self) -> Entry | None:
        """Return what is shared; ``None`` if nothing is, or nothing that can be read."""
        try:
            file = read_secret_file(self._file)
            entry = Entry(**json.loads(file.text))
        except (CredentialsError, ValueError, TypeError):
            return None
        self._identity = file.identity
        return entry if _is_whole(entry) else None

    def write(self, entry: Entry) -> None:
        """Share this.

        Raises:
            OSError: the file cannot be written.
            TypeError: there is something in it that no file holds.
        """
        text = json.dumps(asdict(entry))
        new = self._directory / f"{self._key}.new"
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(self._file)
        self._identity = self._identify()

    def forget(self) -> None:
        """Share nothing any more."""
        self._file.unlink(missing_ok=True)

    def moved(self) -> bool:
        """Say whether the file is another one than was read or written last. Needs no lock."""
        now = self._identify()
        return now is not None and now != self._identity

    def sweep(self) -> None:
        """Remove what processes left behind that were killed."""
        for path in self._directory.glob(f"{self._key}.{'[0-9a-f]' * _NAME_LENGTH}"):
            left = Membership(path)
            left.leave(remove=left.is_last())

    def member(self, lease: str | None = None) -> Membership:
        """Return a new membership: among those who use a lease, or among all who were ever here."""
        name = "all" if lease is None else hashlib.sha256(lease.encode()).hexdigest()[:_NAME_LENGTH]
        return Membership(self._directory / f"{self._key}.{name}")

    def after_fork(self) -> None:
        """Close what was inherited; the parent keeps its locks."""
        handle, self._mutex = self._mutex, None
        if handle is not None:
            os.close(handle)

    def _identify(self) -> FileIdentity | None:
        return identify(os.path.realpath(self._file))

    def _lock(self, handle: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not _locked(handle, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise CredentialsUnavailable(
                    f"SHARED, {self._directory}: another process has asked the store for"
                    f" {timeout:g} s and is not done"
                )
            time.sleep(_RETRY)


def check_folder(directory: Path) -> None:
    """Refuse a folder in which somebody else could read or write.

    Raises:
        AdapterMisconfigured: it is not there, is not this user's, or others may enter it.
    """
    try:
        status = directory.lstat()
    except OSError as error:
        raise _refused(directory, f"it cannot be looked at ({error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode):
        raise _refused(directory, "it is no directory")
    if status.st_uid != os.geteuid():
        raise _refused(directory, f"it belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & 0o077:
        raise _refused(directory, f"others may enter it; run chmod 700 {directory}")


def _refused(directory: Path, why: str) -> AdapterMisconfigured:
    return AdapterMisconfigured(
        f"option SHARED: {directory} has to be a directory of this user's own, mode 0700: {why}"
    )


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, _PRIVATE)
    except OSError as error:
        message = f"SHARED, {path.parent}: it cannot be used ({error.strerror})"
    raise CredentialsUnavailable(message)


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_whole(entry: Entry) -> bool:
    """Say whether a file that somebody may have written by hand holds what it should."""
    numbers = (entry.granted, entry.expires_at)
    return (
        isinstance(entry.lease, str)
        and all(isinstance(number, (int, float)) for number in numbers)
        and entry.granted > 0
        and isinstance(entry.parameters, dict)
        and isinstance(entry.ground, (dict, type(None)))
    )
