"""Credentials from files: a mounted secret, or one file that holds the whole login."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.fields import DOCUMENT_KEYS, DOTENV_KEYS, PART_OPTIONS, FieldMap
from pg_secrets.files.login_files import DEFAULT_FILES, LoginDirectory, LoginFile, LoginRead
from pg_secrets.files.mounts import why_frozen
from pg_secrets.options import Options
from pg_secrets.parsing import (
    DotenvFormat,
    JsonFormat,
    PasswordFormat,
    PgpassFormat,
    TextFormat,
    UrlFormat,
)
from pg_secrets.redaction import stripping

logger = logging.getLogger(__name__)

FORMATS = ("json", "dotenv", "url", "pgpass", "password")
_WITH_PATH = ("FORMAT", "FIELDS", "MATCH")


class FilesAdapter(CredentialAdapter):
    """Reads files, and notices by what a file *is* when it was replaced.

    Either a directory with one file for each part of the login, as Kubernetes, Docker and the CSI
    driver mount a secret (user and password always belong to the same state of the secret):

    ``DIRECTORY`` (path)
        The mounted directory.
    ``USERNAME`` (default ``"username"``)
        The file with the user. If the option is not given and there is no such file, the user is
        left to the connection's own settings.
    ``PASSWORD`` (default ``"password"``)
        The file with the password. Must be there.
    ``HOST``, ``PORT``, ``DBNAME`` (default: not read)
        Files with further parts of the login that change together with the password.

    or one file with everything:

    ``PATH`` (path)
        The file.
    ``FORMAT`` (``"json"``, ``"dotenv"``, ``"url"``, ``"pgpass"`` or ``"password"``)
        What is in it. By default found out from its name (``.json``, ``.env``, ``.pgpass``) or a
        beginning with ``{`` or ``postgresql://``; anything else may be a bare password, and must be
        called one.
    ``FIELDS`` (mapping of libpq keywords to keys; only for JSON and dotenv)
        What to take. By default from JSON ``username`` or ``user``, ``password``, and where they
        are there ``host``, ``port``, ``dbname`` or ``database``; from dotenv ``PGUSER``,
        ``PGPASSWORD``, ``PGHOST``, ``PGPORT``, ``PGDATABASE`` or their ``POSTGRES_…`` forms.
    ``MATCH`` (mapping with any of ``host``, ``port``, ``dbname``, ``user``; only for pgpass)
        Which line to take; needed when there is more than one.

    A file holds at most 64 KiB of UTF-8. One line end after a value is dropped, as is a byte order
    mark. A warning is logged, once, for a file that can never change (``subPath``, systemd
    credentials), that anybody may write to, or, for pgpass, that others may read. Files that others
    may only *read* are not warned about otherwise: that is how Kubernetes mounts them.

    Not to be used by two threads at once, as :class:`CredentialAdapter` says.
    """

    name: ClassVar[str] = "files"

    def __init__(
        self, store: LoginStore, *, frozen: Callable[[str], str | None] = why_frozen
    ) -> None:
        self._store = store
        self._frozen = frozen
        self._last: LoginRead | None = None
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"<FilesAdapter {self._store!r}>"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FilesAdapter:
        """Build from settings; no file is looked at yet.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind, or the two ways
                are mixed.
        """
        options = Options(config, adapter="files")
        separate = [key for key in PART_OPTIONS.values() if key in options]
        if "PATH" in options:
            _exclude(options, "PATH", ["DIRECTORY", *separate])
            store: LoginStore = _login_file(options)
        elif "DIRECTORY" in options:
            _exclude(options, "DIRECTORY", _WITH_PATH)
            store = _login_directory(options)
        else:
            options.finish()
            raise options.error("DIRECTORY", "is required and missing, unless PATH names one file")
        options.finish()
        return cls(store)

    @stripping
    def fetch(self) -> Credentials:
        """Read the files now.

        Raises:
            CredentialsNotFound: a file is missing.
            CredentialsDenied: this process may not read one.
            CredentialsInvalid: one is empty, half-written, too large, not UTF-8, a directory.
            CredentialsUnavailable: reading failed, or the files never stood still.
            AdapterMisconfigured: ``FORMAT`` is not given and cannot be told.
        """
        found = self._store.read()
        self._last = found
        self._warn(found)
        return found.credentials

    def changed(self, credentials: Credentials) -> bool | None:
        """Compare device, inode, size, modification time and resolved path; nothing is read."""
        if self._last is None:
            return None
        return self._store.identities() != self._last.identities

    def _warn(self, found: LoginRead) -> None:
        for file in found.files:
            path = file.identity.path
            # Kubernetes gives every state a path of its own: the name is what the user knows.
            name = Path(path).name
            if name in self._warned:
                continue
            self._warned.add(name)
            reason = self._frozen(path)
            if reason is not None:
                logger.warning("%s will never show a rotated password: %s.", path, reason)
            if file.mode & stat.S_IWOTH:
                logger.warning("%s may be written to by anybody: take away that right.", path)
            if found.private and file.mode & (stat.S_IRGRP | stat.S_IROTH):
                logger.warning("%s may be read by others; libpq would refuse it: chmod 600.", path)


class LoginStore(Protocol):
    """Where a login is read from."""

    def read(self) -> LoginRead:
        """Read everything, in one state."""

    def identities(self) -> Mapping[str, object]:
        """Say what the files are now, without reading them."""


def _exclude(options: Options, key: str, others: list[str] | tuple[str, ...]) -> None:
    given = [other for other in others if other in options]
    if given:
        raise options.error(key, f"excludes {', '.join(given)}: one way of reading is enough")


def _login_directory(options: Options) -> LoginDirectory:
    names, optional = {}, set()
    for keyword, option in PART_OPTIONS.items():
        name = options.text(option, DEFAULT_FILES.get(keyword))
        if name is None:
            continue
        if Path(name).is_absolute():
            raise options.error(option, "found an absolute path, expected a name below DIRECTORY")
        names[keyword] = name
        if keyword == "user" and option not in options:
            optional.add(keyword)
    return LoginDirectory(options.path("DIRECTORY"), names, frozenset(optional))


def _login_file(options: Options) -> LoginFile:
    path = options.path("PATH")
    form = options.choice("FORMAT", FORMATS, None) or _format_by_name(path)
    if "MATCH" in options and form != "pgpass":
        raise options.error("MATCH", "is only of use with FORMAT 'pgpass'")
    if "FIELDS" in options and form in ("url", "pgpass", "password"):
        raise options.error("FIELDS", f"is of no use with FORMAT {form!r}")
    return LoginFile(path, _format(options, form), FieldMap.from_options(options))


def _format_by_name(path: Path) -> str | None:
    if path.name in (".pgpass", "pgpass", "pgpass.conf"):
        return "pgpass"
    if path.suffix == ".env" or path.name == ".env":
        return "dotenv"
    return "json" if path.suffix == ".json" else None


def _format(options: Options, form: str | None) -> TextFormat | None:
    if form == "json":
        return JsonFormat(FieldMap.from_options(options, keys=DOCUMENT_KEYS))
    if form == "dotenv":
        return DotenvFormat(FieldMap.from_options(options, keys=DOTENV_KEYS))
    if form == "pgpass":
        return PgpassFormat(_match(options))
    return {"url": UrlFormat(), "password": PasswordFormat()}.get(form or "")


def _match(options: Options) -> dict[str, str]:
    match = options.mapping("MATCH", {})
    for field, value in match.items():
        if field not in ("host", "port", "dbname", "user"):
            raise options.error("MATCH", "knows host, port, dbname and user, and found another key")
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise options.error("MATCH", f"{field!r} must be a string")
    return {field: str(value) for field, value in match.items()}
