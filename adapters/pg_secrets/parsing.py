"""The formats in which a whole login can stand in one variable or one file."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pg_secrets.credentials import Credentials
from pg_secrets.dotenv import parse_dotenv
from pg_secrets.errors import CredentialsInvalid
from pg_secrets.fields import DOCUMENT_KEYS, DOTENV_KEYS, FieldMap, login

URL_SCHEMES = ("postgresql://", "postgres://")


class TextFormat(ABC):
    """One way of writing credentials as text. Instances are immutable."""

    @abstractmethod
    def parse(self, text: str, place: str) -> Credentials:
        """Return the credentials in ``text``; ``place`` is what an error calls it.

        Raises:
            CredentialsInvalid: the text is empty, half-written or not of this format. The error
                names the place and never shows the text.
        """


class JsonFormat(TextFormat):
    """A JSON object, its keys picked by a field map."""

    def __init__(self, fields: FieldMap | None = None) -> None:
        self._fields = fields or FieldMap(keys=DOCUMENT_KEYS)

    def parse(self, text: str, place: str) -> Credentials:
        _refuse_empty(text, place)
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            # The decoding error carries the document: only its position is kept.
            where = f"line {error.lineno}, column {error.colno}"
        except RecursionError:
            where = "nested too deeply"
        else:
            if not isinstance(document, dict):
                kind = type(document).__name__
                raise CredentialsInvalid(f"{place}: the JSON is a {kind}, expected an object")
            return self._fields.pick(document, place)
        raise CredentialsInvalid(f"{place}: it is not valid JSON, or half-written ({where})")


class DotenvFormat(TextFormat):
    """Lines of ``KEY=value``, the keys picked by a field map."""

    def __init__(self, fields: FieldMap | None = None) -> None:
        self._fields = fields or FieldMap(keys=DOTENV_KEYS)

    def parse(self, text: str, place: str) -> Credentials:
        _refuse_empty(text, place)
        return self._fields.pick(parse_dotenv(text, place), place)


class UrlFormat(TextFormat):
    """A ``postgresql://`` URL as libpq reads it, query parameters included."""

    def parse(self, text: str, place: str) -> Credentials:
        _refuse_empty(text, place)
        url = text.strip()
        if not url.startswith(URL_SCHEMES):
            raise CredentialsInvalid(f"{place}: expected a URL beginning with {URL_SCHEMES[0]}")
        try:
            fields = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # libpq's message quotes the part it stumbled over, which may be the password.
            fields = {}
        # An unescaped "/" in a password makes libpq see a host and no password.
        if "password" not in fields:
            raise CredentialsInvalid(
                f"{place}: libpq finds no password in the URL, or cannot read it;"
                " characters such as / ? # @ % in a password must be percent-encoded"
            )
        return login(fields, place)


class PgpassFormat(TextFormat):
    """libpq's password file: the first line that fits ``match`` gives user and password.

    ``match`` holds any of ``host``, ``port``, ``dbname`` and ``user``. Without it the file must
    hold just one entry. Host, port and dbname of a line say where it applies and are not
    passed on.
    """

    def __init__(self, match: Mapping[str, str] | None = None) -> None:
        self._match = dict(match or {})

    def parse(self, text: str, place: str) -> Credentials:
        _refuse_empty(text, place)
        entries = [entry for entry in _pgpass_entries(text, place) if self._fits(entry)]
        if not entries:
            fits = f"fits MATCH ({', '.join(self._match)})" if self._match else "holds a login"
            raise CredentialsInvalid(f"{place}: no line of the password file {fits}")
        if len(entries) > 1 and not self._match:
            raise CredentialsInvalid(
                f"{place}: {len(entries)} entries in the password file; MATCH must say which"
            )
        found = {"password": entries[0]["password"]}
        user = entries[0]["user"]
        if user == "*":
            user = self._match.get("user", user)
        if user != "*":
            found["user"] = user
        return login(found, place)

    def _fits(self, entry: Mapping[str, str]) -> bool:
        return all(entry[field] in ("*", value) for field, value in self._match.items())


class PasswordFormat(TextFormat):
    """The bare password and nothing else; one line end after it is dropped."""

    def parse(self, text: str, place: str) -> Credentials:
        return login({"password": single_line(text, place)}, place)


def single_line(text: str, place: str) -> str:
    """Return ``text`` without the line end that editors and ``echo`` append.

    Raises:
        CredentialsInvalid: nothing is left, or more than one line.
    """
    line = text.removesuffix("\n").removesuffix("\r")
    _refuse_empty(line, place)
    if "\n" in line or "\r" in line:
        raise CredentialsInvalid(f"{place}: more than one line, expected a single value")
    return line


def detect_format(text: str, fields: FieldMap | None = None) -> TextFormat | None:
    """Return the format ``text`` is surely in, or ``None`` when it could be a bare password."""
    start = text.lstrip()
    if start.startswith("{"):
        return JsonFormat(fields)
    if start.startswith(URL_SCHEMES):
        return UrlFormat()
    return None


def parse_secret(text: str, place: str, fields: FieldMap | None = None) -> Credentials:
    """Return the credentials in a store's secret, whatever its form.

    With ``fields`` it has to be a JSON object; else JSON, a URL, or the bare password.

    Raises:
        CredentialsInvalid: it is no login.
    """
    if fields is not None:
        return JsonFormat(fields).parse(text, place)
    return (detect_format(text) or PasswordFormat()).parse(text, place)


def decoded(data: bytes, place: str) -> str:
    """Return the text of a binary secret, without a byte order mark.

    Raises:
        CredentialsInvalid: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # the error quotes the bytes
    raise CredentialsInvalid(f"{place}: the secret is not UTF-8")


def _refuse_empty(text: str, place: str) -> None:
    if not text.strip():
        raise CredentialsInvalid(f"{place}: it is empty")


_PGPASS_FIELDS = ("host", "port", "dbname", "user", "password")
# A colon or backslash within a field is escaped by a backslash; the password runs to the end.
_PGPASS_LINE = re.compile(r"((?:\\.|[^:\\])*):" * 4 + "(.*)")


def _pgpass_entries(text: str, place: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _PGPASS_LINE.fullmatch(line)
        if match is None:
            raise CredentialsInvalid(
                f"{place}, line {number}: expected host:port:dbname:user:password"
            )
        values = (re.sub(r"\\(.)", r"\1", part) for part in match.groups())
        yield dict(zip(_PGPASS_FIELDS, values, strict=True))
