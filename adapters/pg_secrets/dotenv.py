"""Reading ``KEY=value`` files: strictly, as a misread line is a wrong password."""

from __future__ import annotations

import re

from pg_secrets.errors import CredentialsInvalid

_LINE = re.compile(r"\s*(?:export\s+)?(?P<key>[A-Za-z_][A-Za-z0-9_.]*)\s*=[ \t]*(?P<value>.*)")
_DOUBLE = re.compile(r'"(?P<text>(?:\\.|[^"\\])*)"\s*(?:#.*)?')
_SINGLE = re.compile(r"'(?P<text>[^']*)'\s*(?:#.*)?")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse_dotenv(text: str, place: str) -> dict[str, str]:
    """Return the keys and values of a dotenv file; the last of several equal keys wins.

    Single quotes keep everything; double quotes know the escapes of JSON strings' short forms
    and a backslash before any other character; without quotes a comment begins at " #". Nothing
    is expanded: a ``$`` in a password stays one.

    Raises:
        CredentialsInvalid: a line is none of these; its number is named, its text is not.
    """
    values = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        value = _value(match["value"]) if match else None
        if match is None or value is None:
            raise CredentialsInvalid(f"{place}, line {number}: expected KEY=value")
        values[match["key"]] = value
    return values


def _value(raw: str) -> str | None:
    """Return the value that ``raw`` stands for, or ``None`` for a quote that never ends."""
    raw = raw.rstrip()
    if raw.startswith('"'):
        match = _DOUBLE.fullmatch(raw)
        return re.sub(r"\\(.)", _unescaped, match["text"]) if match else None
    if raw.startswith("'"):
        match = _SINGLE.fullmatch(raw)
        return match["text"] if match else None
    return re.split(r"\s#", raw, maxsplit=1)[0].rstrip()


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[1])
