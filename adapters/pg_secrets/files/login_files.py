"""The two ways a login lies in files: one file for each part, or one for the whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pg_secrets.credentials import Credentials
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.fields import PART_OPTIONS, FieldMap, login
from pg_secrets.parsing import PasswordFormat, PgpassFormat, TextFormat, detect_format, single_line
from pg_secrets.secret_file import FileIdentity, OpenFolder, SecretFile, identify, read_secret_file

#: The link that Kubernetes (and the CSI driver, and cert-manager) turns round in one step.
KUBERNETES_LINK = "..data"
#: The files read when no option names others.
DEFAULT_FILES: Mapping[str, str] = {"user": "username", "password": "password"}
_ATTEMPTS = 10


@dataclass(frozen=True)
class LoginRead:
    """What was read, and which files it was read from (``None`` for an optional one not there)."""

    credentials: Credentials
    identities: Mapping[str, FileIdentity | None]
    files: tuple[SecretFile, ...]
    private: bool = False


@dataclass(frozen=True)
class LoginDirectory:
    """A directory with one file for each part of the login."""

    directory: Path
    names: Mapping[str, str]
    optional: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<LoginDirectory {self.directory} {' '.join(self.names)}>"

    def read(self) -> LoginRead:
        """Read all files from one state of the directory.

        The link that says which state is current is followed once; everything is then read below
        the folder it led to, which is held open. When that folder is cleared away meanwhile, or a
        file in a plain directory is replaced, everything is read again.
        """
        for _ in range(_ATTEMPTS):
            folder = self._open()
            if folder is None:
                continue
            try:
                files = {keyword: self._file(folder, keyword) for keyword in self.names}
                whole = self._is_whole(folder, files)
            finally:
                os.close(folder.handle)
            if whole:
                return self._login(folder, files)
        raise CredentialsUnavailable(f"directory {self.directory}: it kept changing while read")

    def identities(self) -> dict[str, FileIdentity | None]:
        """Say what the files are now; ``None`` for one that is not there."""
        root = self._root()
        return {keyword: identify(f"{root}/{name}") for keyword, name in self.names.items()}

    def _root(self) -> str:
        link = self.directory / KUBERNETES_LINK
        return os.path.realpath(link if link.is_symlink() else self.directory)

    def _open(self) -> OpenFolder | None:
        """Open the folder that is current; ``None`` if another one became current meanwhile."""
        root = self._root()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return OpenFolder(os.open(root, flags), root)
        except PermissionError as error:
            message = f"directory {self.directory}: this process may not open it"
            raise CredentialsDenied(message) from error
        except OSError as error:
            if self._root() != root:
                return None
            message = f"directory {self.directory}: it cannot be opened ({error.strerror})"
            raise CredentialsNotFound(message) from error

    def _file(self, folder: OpenFolder, keyword: str) -> SecretFile | None:
        try:
            return read_secret_file(self.names[keyword], folder=folder)
        except CredentialsNotFound:
            # What is missing in a folder that is being cleared away says nothing about the secret.
            if keyword in self.optional or not self._is_current(folder):
                return None
            if self.names[keyword] == DEFAULT_FILES.get(keyword):
                raise
        # A name that is no file's may be the value itself, put into the option.
        raise CredentialsNotFound(
            f"directory {self.directory}: option {PART_OPTIONS[keyword]} names a file that is not"
            " there; it takes the file's name, not the value"
        )

    def _is_whole(self, folder: OpenFolder, files: Mapping[str, SecretFile | None]) -> bool:
        if not all(files.values()) and not self._is_current(folder):
            return False
        if self._is_state(folder):
            return True
        # A plain directory promises nothing: each file must still be the one that was read.
        return all(
            file is None or self._identity(folder, keyword) == file.identity
            for keyword, file in files.items()
        )

    def _identity(self, folder: OpenFolder, keyword: str) -> FileIdentity | None:
        name = self.names[keyword]
        try:
            status = os.stat(name, dir_fd=folder.handle)
        except OSError:
            return None
        return FileIdentity.of(f"{folder.path}/{name}", status)

    def _is_current(self, folder: OpenFolder) -> bool:
        try:
            now = os.stat(self._root())  # noqa: PTH116 - compared with an open handle
        except OSError:
            return False
        return os.path.samestat(now, os.fstat(folder.handle))

    def _is_state(self, folder: OpenFolder) -> bool:
        """Say whether the folder is one of Kubernetes' states, which never change once shown."""
        return str(Path(folder.path).parent) == os.path.realpath(self.directory)

    def _login(self, folder: OpenFolder, files: Mapping[str, SecretFile | None]) -> LoginRead:
        there = {keyword: file for keyword, file in files.items() if file is not None}
        fields = {
            keyword: single_line(file.text, f"file {file.identity.path}")
            for keyword, file in there.items()
        }
        version = Path(folder.path).name if self._is_state(folder) else None
        return LoginRead(
            login(fields, f"directory {self.directory}", version=version),
            {keyword: file.identity if file else None for keyword, file in files.items()},
            tuple(there.values()),
        )


@dataclass(frozen=True)
class LoginFile:
    """One file that holds the whole login; without a format, one that its text gives away."""

    path: Path
    format: TextFormat | None
    fields: FieldMap

    def read(self) -> LoginRead:
        """Read the file and what it says."""
        file = read_secret_file(self.path)
        place = f"file {self.path}"
        form = self.format or detect_format(file.text, self.fields)
        if form is None and file.text.strip():
            raise AdapterMisconfigured(
                f"adapter 'files', option FORMAT: {place} may hold a bare password or anything"
                " else; say which: json, dotenv, url, pgpass or password"
            )
        credentials = (form or PasswordFormat()).parse(file.text, place)
        private = isinstance(form, PgpassFormat)
        return LoginRead(credentials, {"file": file.identity}, (file,), private)

    def identities(self) -> dict[str, FileIdentity | None]:
        """Say what the file is now; ``None`` when it is not there."""
        return {"file": identify(os.path.realpath(self.path))}
