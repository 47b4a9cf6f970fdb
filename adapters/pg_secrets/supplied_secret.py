"""A secret that settings give, or say where to find: a value, a variable or a file."""

from __future__ import annotations

import os
from pathlib import Path

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.options import Options
from pg_secrets.parsing import single_line
from pg_secrets.redaction import NOT_SHOWN, shown_path, shown_variable
from pg_secrets.secret_file import FileIdentity, identify, read_secret_file


class SuppliedSecret:
    """What proves an identity: given as ``KEY``, ``KEY_ENV`` (a variable) or ``KEY_FILE`` (a path).

    With both a variable and a file the variable is asked first. Its ``repr`` shows where the secret
    is, never the secret, which may also stand where a name belongs. Not thread-safe.
    """

    def __init__(
        self,
        key: str,
        *,
        adapter: str,
        value: str | None = None,
        env: str | None = None,
        file: str | None = None,
    ) -> None:
        self._key = key
        self._adapter = adapter
        self._value = value
        self._env = env
        self._file = None if file is None else Path(file).expanduser()
        self._read: FileIdentity | None = None

    def __repr__(self) -> str:
        places = [] if self._env is None else [shown_variable(self._env)]
        places += [] if self._file is None else [shown_path(self._file)]
        return f"<SuppliedSecret {self._key} {' or '.join(places) or 'given'}>"

    @classmethod
    def from_options(
        cls, options: Options, key: str, default: SuppliedSecret | None = None
    ) -> SuppliedSecret:
        """Read ``key`` and its two other forms.

        Raises:
            AdapterMisconfigured: none is given and there is no default, or more than one.
        """
        found = cls.optional(options, key) or default
        if found is None:
            raise options.error(key, f"is required: give it, or {key}_ENV, or {key}_FILE")
        return found

    @classmethod
    def optional(cls, options: Options, key: str) -> SuppliedSecret | None:
        """Read ``key`` and its two other forms, or return ``None`` when none is given.

        Raises:
            AdapterMisconfigured: more than one is given.
        """
        given = [name for name in (key, f"{key}_ENV", f"{key}_FILE") if name in options]
        if len(given) > 1:
            raise options.error(given[0], f"excludes {', '.join(given[1:])}: give one of them")
        if not given:
            return None
        file = options.path(f"{key}_FILE", None)
        return cls(
            key,
            adapter=options.adapter,
            value=options.text(key, None),
            env=options.text(f"{key}_ENV", None),
            file=None if file is None else str(file),
        )

    def read(self) -> str:
        """Return the secret as it is now.

        Raises:
            AdapterMisconfigured: the variable is not set.
            CredentialsUnavailable: the file is not there (yet).
            CredentialsInvalid: it is empty or holds what no token holds.
            CredentialsDenied: the file may not be read.
        """
        if self._value is not None:
            return self._fit(self._value)
        if self._env is not None and os.environ.get(self._env):
            return self._fit(os.environ[self._env])
        if self._file is None:
            raise AdapterMisconfigured(self._about("_ENV", self._no_variable()))
        try:
            file = read_secret_file(self._file)
        except CredentialsNotFound:
            raise CredentialsUnavailable(self._about(*self._no_file())) from None
        self._read = file.identity
        return self._fit(single_line(file.text, self._about("_FILE", f"file {self._file}")))

    def changed(self) -> bool:
        """Say whether the file is another one than was read; nothing is read."""
        if self._read is None or self._file is None:
            return False
        now = identify(os.path.realpath(self._file))
        return now is not None and now != self._read

    def _about(self, form: str, message: str) -> str:
        return f"adapter {self._adapter!r}, option {self._key}{form}: {message}"

    def _no_variable(self) -> str:
        name = shown_variable(self._env or "")
        if name == NOT_SHOWN:
            return "it names a variable that is not set; it takes a variable's name, not the value"
        return f"environment variable {name} is not set"

    def _no_file(self) -> tuple[str, str]:
        path = shown_path(self._file or Path())
        if self._env is not None:
            return "", f"{self._no_variable()}, and there is no file {path}"
        if path == NOT_SHOWN:
            return "_FILE", "it names a file that is not there; it takes a path, not the value"
        return "_FILE", f"there is no file {path}"

    def _fit(self, secret: str) -> str:
        # It goes into an HTTP header, where anything else is refused, and quoted in the error.
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise CredentialsInvalid(self._about("", "it holds a space or a control character"))
        return secret


class SuppliedPassword(SuppliedSecret):
    """A secret that goes into a request's body, where it may hold anything a line may hold."""

    def _fit(self, secret: str) -> str:
        if not secret.isprintable():
            raise CredentialsInvalid(self._about("", "it holds a control character"))
        return secret
