"""Reading one small file that somebody else may be replacing meanwhile."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pg_secrets.errors import (
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)

#: No credential is larger; a bound keeps a wrong path from being read into memory.
MAX_BYTES = 64 * 1024
_ATTEMPTS = 5


@dataclass(frozen=True)
class FileIdentity:
    """What a file is: a file that differs in none of these holds what it held before."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    path: str

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileIdentity:
        """Build from a ``stat`` result; ``path`` is resolved, as a link may be turned round."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, path)


@dataclass(frozen=True)
class SecretFile:
    """The text of a file, and the identity and mode of the very file it was read from."""

    text: str = field(repr=False)
    identity: FileIdentity
    mode: int


@dataclass(frozen=True)
class OpenFolder:
    """A folder held open, so that what is read below it belongs together whatever is renamed."""

    handle: int
    path: str


def identify(path: str) -> FileIdentity | None:
    """Return the identity of the file at the resolved ``path``, ``None`` where there is none."""
    try:
        return FileIdentity.of(path, os.stat(path))  # noqa: PTH116 - one call, no object
    except OSError:
        return None


def read_secret_file(path: str | Path, *, folder: OpenFolder | None = None) -> SecretFile:
    """Read a small UTF-8 text file whole; a byte order mark is dropped.

    ``path`` is relative to ``folder`` where that is given. A file that is written to in place while
    it is read is read again, a few times.

    Raises:
        CredentialsNotFound: there is no such file.
        CredentialsDenied: this process may not read it.
        CredentialsInvalid: it is a directory or a device, too large, or not UTF-8.
        CredentialsUnavailable: reading failed, or it never stood still.
    """
    shown = f"{folder.path}/{path}" if folder else str(path)
    for _ in range(_ATTEMPTS):
        try:
            found = _read_once(str(path), folder, shown)
        except OSError as error:
            raise _failure(shown, error) from error
        if found is not None:
            return found
    raise CredentialsUnavailable(f"file {shown}: it kept changing while it was read")


def _read_once(path: str, folder: OpenFolder | None, shown: str) -> SecretFile | None:
    # Without O_NONBLOCK opening a FIFO would wait for a writer that may never come.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, dir_fd=folder.handle if folder else None)
    try:
        before = os.fstat(handle)
        _refuse(shown, before)
        content = _read_bounded(handle)
        after = os.fstat(handle)
    finally:
        os.close(handle)
    if len(content) > MAX_BYTES:
        raise CredentialsInvalid(f"file {shown}: it is larger than {MAX_BYTES} bytes")
    resolved = shown if folder else os.path.realpath(path)
    identity = FileIdentity.of(resolved, before)
    if identity != FileIdentity.of(resolved, after):
        return None
    return SecretFile(_decode(shown, content), identity, before.st_mode)


def _refuse(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        hint = "container engines create one where the file to be mounted does not exist"
        raise CredentialsInvalid(f"file {path}: it is a directory ({hint})")
    if not stat.S_ISREG(status.st_mode):
        raise CredentialsInvalid(f"file {path}: it is not a regular file")


def _read_bounded(handle: int) -> bytes:
    content = b""
    while len(content) <= MAX_BYTES:
        chunk = os.read(handle, MAX_BYTES + 1 - len(content))
        if not chunk:
            break
        content += chunk
    return content


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # The decoding error carries the content: it is not chained.
        raise CredentialsInvalid(f"file {path}: it is not UTF-8 text") from None


def _failure(path: str, error: OSError) -> CredentialsError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return CredentialsNotFound(f"file {path}: there is no such file")
    if isinstance(error, PermissionError):
        return CredentialsDenied(f"file {path}: this process may not read it")
    return CredentialsUnavailable(f"file {path}: reading it failed ({error.strerror})")
