"""Credentials from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
)
from pg_secrets.fields import DOCUMENT_KEYS, PART_OPTIONS, FieldMap, login
from pg_secrets.options import Options
from pg_secrets.parsing import JsonFormat, TextFormat, UrlFormat, single_line
from pg_secrets.redaction import NOT_SHOWN, shown_variable, stripping
from pg_secrets.secret_file import read_secret_file

#: The variables read when no option names others.
_DEFAULTS = {"user": "PGUSER", "password": "PGPASSWORD"}


class EnvAdapter(CredentialAdapter):
    """Reads environment variables, each time it is asked.

    Options, all of them strings that *name a variable*, never the value:

    ``USERNAME`` (default ``PGUSER``)
        The user. If the option is not given and ``PGUSER`` is not set, the user is left to the
        connection's own settings.
    ``PASSWORD`` (default ``PGPASSWORD``)
        The password. Must be set.
    ``HOST``, ``PORT``, ``DBNAME`` (default: not read)
        Further parts of the login that change together with the password.
    ``JSON``
        One variable that holds a JSON object, instead of those above. ``FIELDS`` (a mapping of
        libpq keywords to the object's keys) says what to take; by default ``username`` or
        ``user``, ``password``, and where they are there ``host``, ``port``, ``dbname`` or
        ``database``.
    ``URL``
        One variable that holds a ``postgresql://`` URL, instead of those above.

    Every variable ``X`` may be given as ``X_FILE`` instead, the path of a file that holds the
    value, as Docker's images do; both at once are an error. A variable that is set but empty is an
    error too, so that a lost value does not look like "no password needed". Where user and password
    are files that change together, the ``files`` adapter reads them without tearing the pair.

    Safe to use from several threads.
    """

    name: ClassVar[str] = "env"

    def __init__(self, reader: VariableReader, environ: Mapping[str, str] | None = None) -> None:
        self._reader = reader
        self._environ = os.environ if environ is None else environ

    def __repr__(self) -> str:
        return f"<EnvAdapter {self._reader!r}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, environ: Mapping[str, str] | None = None
    ) -> EnvAdapter:
        """Build from settings.

        Raises:
            AdapterMisconfigured: a key is unknown or of the wrong kind, or two ways are mixed.
        """
        options = Options(config, adapter="env")
        whole = [key for key in ("JSON", "URL") if key in options]
        separate = [key for key in PART_OPTIONS.values() if key in options]
        if len(whole) + bool(separate) > 1:
            raise options.error(
                whole[0],
                f"excludes {', '.join(whole[1:] + separate)}: one way of reading is enough",
            )
        if "FIELDS" in options and whole != ["JSON"]:
            raise options.error("FIELDS", "is only of use together with JSON")
        reader = _whole(options, whole[0]) if whole else _separate(options)
        options.finish()
        return cls(reader, environ)

    @stripping
    def fetch(self) -> Credentials:
        """Read the variables now.

        Raises:
            CredentialsNotFound: a variable is not set, or the file it names is not there.
            CredentialsInvalid: a value is empty or not in the format expected.
            CredentialsDenied: a file may not be read.
            AdapterMisconfigured: ``X`` and ``X_FILE`` are both set.
        """
        return self._reader.read(self._environ)

    @stripping
    def changed(self, credentials: Credentials) -> bool | None:
        """Say whether the variables, or the files they name, hold something else by now."""
        try:
            return self._reader.read(self._environ).fingerprint != credentials.fingerprint
        except CredentialsError:
            return True  # a fetch will say what is wrong


class VariableReader(Protocol):
    """What turns an environment into credentials."""

    def read(self, environ: Mapping[str, str]) -> Credentials:
        """Return what the variables hold now."""


@dataclass(frozen=True)
class SeparateVariables:
    """One variable for each part of the login."""

    names: Mapping[str, str]
    optional: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        shown = (f"{keyword}={shown_variable(name)}" for keyword, name in self.names.items())
        return f"<SeparateVariables {' '.join(shown)}>"

    def read(self, environ: Mapping[str, str]) -> Credentials:
        """Return the variables' values, all read before any is looked at."""
        fields = {}
        for keyword, name in self.names.items():
            if keyword in self.optional and name not in environ and f"{name}_FILE" not in environ:
                continue
            text = variable(environ, name, PART_OPTIONS[keyword])
            fields[keyword] = single_line(text, f"environment variable {name}")
        return login(fields, "environment")


@dataclass(frozen=True)
class WholeVariable:
    """One variable that holds the whole login; ``option`` is the one that names it."""

    name: str
    format: TextFormat
    option: str

    def __repr__(self) -> str:
        return f"<WholeVariable {self.option}={shown_variable(self.name)}>"

    def read(self, environ: Mapping[str, str]) -> Credentials:
        """Return what the variable's text says."""
        text = variable(environ, self.name, self.option)
        return self.format.parse(text, f"environment variable {self.name}")


def variable(environ: Mapping[str, str], name: str, option: str) -> str:
    """Return the text of the variable ``name``, or of the file that ``name_FILE`` names.

    A name that is set is one; one that is not may be the value itself, put into ``option``.

    Raises:
        CredentialsNotFound: neither is set.
        CredentialsInvalid: what is set is empty.
        AdapterMisconfigured: both are set.
    """
    file_name = f"{name}_FILE"
    value, path = environ.get(name), environ.get(file_name)
    if value and path:
        raise AdapterMisconfigured(
            f"environment variables {name} and {file_name} are both set: unset one of them"
        )
    if path:
        return read_secret_file(Path(path)).text
    if value:
        return value
    if value is None and path is None:
        if shown_variable(name) == NOT_SHOWN:
            raise CredentialsNotFound(
                f"adapter 'env', option {option}: it names a variable that is not set;"
                " it takes the variable's name, not the value"
            )
        raise CredentialsNotFound(f"environment variable {name} is not set, nor is {file_name}")
    raise CredentialsInvalid(
        f"environment variable {file_name if value is None else name} is set but empty"
    )


def _separate(options: Options) -> SeparateVariables:
    names, optional = {}, set()
    for keyword, option in PART_OPTIONS.items():
        name = options.text(option, _DEFAULTS.get(keyword))
        if name is not None:
            names[keyword] = name
        if option not in options and keyword == "user":
            optional.add(keyword)
    return SeparateVariables(names, frozenset(optional))


def _whole(options: Options, key: str) -> WholeVariable:
    name = options.text(key)
    if key == "URL":
        return WholeVariable(name, UrlFormat(), key)
    fields = FieldMap.from_options(options, keys=DOCUMENT_KEYS)
    return WholeVariable(name, JsonFormat(fields), key)
