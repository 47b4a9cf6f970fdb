"""From the keys of a document (JSON, dotenv, a Vault secret) to the fields of a login."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg.pq import Conninfo

from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsInvalid
from pg_secrets.options import Options, nearest

#: Keys looked for in a JSON document or a Vault secret when no ``FIELDS`` are given.
DOCUMENT_KEYS: Mapping[str, tuple[str, ...]] = {
    "user": ("username", "user"),
    "password": ("password",),
    "host": ("host",),
    "port": ("port",),
    "dbname": ("dbname", "database"),
}

#: The same for a dotenv file: libpq's names first, then those of PostgreSQL's container image.
DOTENV_KEYS: Mapping[str, tuple[str, ...]] = {
    "user": ("PGUSER", "POSTGRES_USER"),
    "password": ("PGPASSWORD", "POSTGRES_PASSWORD"),
    "host": ("PGHOST", "POSTGRES_HOST"),
    "port": ("PGPORT", "POSTGRES_PORT"),
    "dbname": ("PGDATABASE", "POSTGRES_DB"),
}


#: The options that say where the parts of a login stand one by one, by libpq keyword.
PART_OPTIONS: Mapping[str, str] = {
    "user": "USERNAME",
    "password": "PASSWORD",
    "host": "HOST",
    "port": "PORT",
    "dbname": "DBNAME",
}


class FieldMap:
    """Says which key of a document holds which libpq keyword.

    Given explicitly, exactly those keys are read and each must be there. By default the password
    must be there, and user, host, port and dbname are taken where they are. Immutable.
    """

    def __init__(
        self, explicit: Mapping[str, str] | None = None, *, keys: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._explicit = dict(explicit) if explicit is not None else None
        self._keys = keys

    def __repr__(self) -> str:
        return f"<FieldMap {self._explicit or 'default'}>"

    @classmethod
    def from_options(
        cls, options: Options, *, keys: Mapping[str, tuple[str, ...]] = DOCUMENT_KEYS
    ) -> FieldMap:
        """Read ``FIELDS``, a mapping of libpq keywords to the document's keys.

        Raises:
            AdapterMisconfigured: a keyword is not libpq's, or a key is not a string.
        """
        explicit = options.mapping("FIELDS", None)
        if explicit is None:
            return cls(keys=keys)
        if not explicit:
            raise options.error("FIELDS", "found an empty mapping, expected at least one field")
        known = libpq_keywords()
        for keyword, key in explicit.items():
            if keyword not in known:
                close = nearest(keyword, known)
                hint = f" (did you mean {close!r}?)" if close else ""
                raise options.error(
                    "FIELDS", f"found a key that is no libpq keyword, expected e.g. 'user'{hint}"
                )
            if not isinstance(key, str) or not key:
                raise options.error(
                    "FIELDS", f"{keyword!r} must name a key with a string that is not empty"
                )
        return cls(explicit, keys=keys)

    def pick(self, document: Mapping[str, Any], place: str) -> Credentials:
        """Return the credentials found in ``document``; ``place`` is what an error calls it.

        Raises:
            CredentialsInvalid: a field is missing, empty or not of a kind libpq can take.
        """
        found = self._explicitly(document, place) if self._explicit else self._by_default(document)
        if not self._explicit and "password" not in found:
            keys = " nor ".join(repr(key) for key in self._keys["password"])
            raise CredentialsInvalid(f"{place}: it has no {keys}; FIELDS can name another key")
        return login(found, place)

    def _explicitly(self, document: Mapping[str, Any], place: str) -> dict[str, Any]:
        fields = self._explicit or {}
        for keyword, key in fields.items():
            if document.get(key) is None:
                raise CredentialsInvalid(f"{place}: it has no {key!r} (FIELDS: {keyword})")
        return {keyword: document[key] for keyword, key in fields.items()}

    def _by_default(self, document: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for keyword, keys in self._keys.items():
            values = (document[key] for key in keys if document.get(key) is not None)
            value = next(values, None)
            if value is not None:
                found[keyword] = value
        return found


def login(fields: Mapping[str, Any], place: str, *, version: str | None = None) -> Credentials:
    """Return credentials from libpq keywords and values of any kind.

    Raises:
        CredentialsInvalid: a value is empty, has a NUL in it, or is not of a kind libpq can take.
    """
    values = {keyword: _checked(keyword, value, place) for keyword, value in fields.items()}
    user, password = values.pop("user", None), values.pop("password", None)
    return Credentials(user=user, password=password, parameters=values, version=version)


def libpq_keywords() -> frozenset[str]:
    """Return the connection keywords that the installed libpq knows."""
    return frozenset(option.keyword.decode() for option in Conninfo.get_defaults())


def _checked(keyword: str, value: Any, place: str) -> Any:
    if keyword == "port":
        return _port(value, place)
    if keyword not in ("user", "password") and type(value) is int:
        return value
    if not isinstance(value, str):
        kind = type(value).__name__
        raise CredentialsInvalid(f"{place}: {keyword} is of type {kind}, expected a string")
    if not value:
        raise CredentialsInvalid(f"{place}: {keyword} is empty")
    if "\0" in value or not _encodable(value):
        raise CredentialsInvalid(f"{place}: {keyword} holds a character PostgreSQL cannot take")
    return value


def _encodable(value: str) -> bool:
    # An environment variable that was not UTF-8 arrives with lone surrogates in it.
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _port(value: Any, place: str) -> int | str:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, str) and "," in value:
        return value  # one port per host, in libpq's notation
    if type(value) is not int or not 0 < value < 65536:
        raise CredentialsInvalid(f"{place}: port is not a number between 1 and 65535")
    return value
