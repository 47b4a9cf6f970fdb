"""The SQL functions as Python sees them: one statement each, in libpq's binary formats.

Parameters are encoded by hand since the message path cannot afford psycopg's general adaptation
(about 15 µs a call against 2). Formats: PostgreSQL documentation, "Binary Format", and
``array_recv`` for arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Decoder = Callable[[bytes], Any]

_INT4 = struct.Struct("!i")
_INT8 = struct.Struct("!q")
_FLOAT8 = struct.Struct("!d")
_HEADER = struct.Struct("!iiIii")
_NULL = b"\xff\xff\xff\xff"
_BOOL, _BYTEA, _INT8_OID, _INT4_OID, _TEXT, _FLOAT8_OID = 16, 17, 20, 23, 25, 701


def int4(value: bytes) -> int:
    """Decode an integer."""
    return int(_INT4.unpack(value)[0])


def int8(value: bytes) -> int:
    """Decode a bigint."""
    return int(_INT8.unpack(value)[0])


def float8(value: bytes) -> float:
    """Decode a double precision."""
    return float(_FLOAT8.unpack(value)[0])


def text(value: bytes) -> str:
    """Decode a text."""
    return value.decode()


def raw(value: bytes) -> bytes:
    """Leave a bytea, or a text that is ASCII and wanted as bytes, as it is."""
    return value


def _as_it_is(value: bytes | None) -> bytes | None:
    return value


def _array(oid: int, items: Sequence[bytes | None]) -> bytes:
    if not items:
        return struct.pack("!iiI", 0, 0, oid)
    parts = [_HEADER.pack(1, int(None in items), oid, len(items), 1)]
    for item in items:
        if item is None:
            parts.append(_NULL)
        else:
            parts.append(len(item).to_bytes(4, "big"))
            parts.append(item)
    return b"".join(parts)


def _encode_int8s(values: Sequence[int | None]) -> bytes:
    return _array(_INT8_OID, [None if v is None else _INT8.pack(v) for v in values])


def _encode_int4s(values: Sequence[int | None]) -> bytes:
    return _array(_INT4_OID, [None if v is None else _INT4.pack(v) for v in values])


def _encode_texts(values: Sequence[str | None]) -> bytes:
    return _array(_TEXT, [None if v is None else v.encode() for v in values])


def _encode_byteas(values: Sequence[bytes | None]) -> bytes:
    return _array(_BYTEA, values)


def _encode_asciis(values: Sequence[bytes | None]) -> bytes:
    return _array(_TEXT, values)


def _encode_bools(values: Sequence[bool]) -> bytes:
    return _array(_BOOL, [b"\x01" if v else b"\x00" for v in values])


#: None is NULL, in bytea alone.
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "int4": _INT4.pack,
    "int8": _INT8.pack,
    "float8": _FLOAT8.pack,
    "bool": lambda value: b"\x01" if value else b"\x00",
    "text": str.encode,
    "ascii": bytes,
    "bytea": _as_it_is,
    "int8[]": _encode_int8s,
    "int4[]": _encode_int4s,
    "text[]": _encode_texts,
    "ascii[]": _encode_asciis,
    "bytea[]": _encode_byteas,
    "bool[]": _encode_bools,
}


@dataclass(frozen=True)
class Statement:
    """One function call: its SQL, and how its parameters and columns are coded."""

    verb: str
    parameters: tuple[str, ...]
    columns: tuple[Decoder, ...] = ()
    sql: bytes = field(init=False)
    name: bytes = field(init=False)
    #: A list, since psycopg before 3.3 takes nothing else.
    formats: list[int] = field(init=False, compare=False)
    _encoders: tuple[Callable[[Any], bytes | None], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        casts = ", ".join(
            f"${i}::{kind.replace('ascii', 'text')}" for i, kind in enumerate(self.parameters, 1)
        )
        name = f"channels_pg_secrets_{self.verb}_v1"
        put = object.__setattr__
        # One column needs no FROM, and so the server no table of results in between.
        source = "SELECT * FROM" if len(self.columns) > 1 else "SELECT"
        put(self, "sql", f"{source} {name}({casts})".encode())
        put(self, "name", name.encode())
        put(self, "formats", [1] * len(self.parameters))
        put(self, "_encoders", tuple(_ENCODERS[kind] for kind in self.parameters))

    def encode(self, values: Sequence[Any]) -> list[bytes | None]:
        """Encode one value for each parameter."""
        return [encode(value) for encode, value in zip(self._encoders, values, strict=True)]


PUBLISH = Statement(
    "publish",
    (
        *("text", "int8", "int8", "int8", "bool", "float8", "float8", "float8"),
        *("int8[]", "text[]", "text[]", "int4[]", "ascii[]", "bytea[]"),
    ),
    (int4, text),
)
PUBLISH_FRAME = Statement(
    "publish_frame",
    ("int8", "int8", "int8", "int8", "ascii", "ascii", "ascii", "float8", "bytea"),
    (text,),
)
PUBLISH_GROUP = Statement(
    "publish_group",
    ("text", "int8", "int8", "int8", "text", "ascii", "float8", "float8", "bytea"),
    (text,),
)
PEER = Statement("peer", ("int8",), (raw, raw, raw))
REGISTER = Statement(
    "register",
    ("text", "int8", "text", "bytea", "bytea", "float8", "int8"),
    (int8, int8, int8),
)
CATCH_UP = Statement("catch_up", ("text", "int8"))
DEREGISTER = Statement("deregister", ("int8",))
HEARTBEAT = Statement("heartbeat", ("int8", "float8"), (int8, int8))
BACKLOG = Statement(
    "backlog",
    ("int8", "int8[]", "int8[]", "int8", "int8", "bool", "int4"),
    (int8, int8, raw, float8),
)
BLOBS = Statement("blobs", ("int8", "int8[]", "int8"), (int8, raw))
MEMBERS = Statement(
    "members",
    (
        *("text", "int8", "int8", "int8", "float8", "float8"),
        *("text[]", "text[]", "bool[]", "int4[]", "int4[]"),
    ),
    (int4,),
)
FULL = Statement("full", ("int8", "int8", "int8", "text[]"), (int4,))
READ = Statement("read", ("text", "int8", "text"))
CLAIM = Statement(
    "claim",
    ("text", "int8", "text", "int8", "int4", "int8[]", "int8[]"),
    (int8, raw, raw),
)
CLAIMS = Statement("claims", ("int8", "int8"), (int8, text, int8))
SETTLE = Statement("settle", ("int8", "int8[]", "int8[]", "int8[]", "int8[]", "text[]"))
FLUSH = Statement("flush", ("text", "int8"), (int8,))
ASK = Statement("ask", ("text", "int8", "text", "text", "float8"), (int8,))
FLUSHED = Statement("flushed", ("int8", "int8"))
UNFLUSHED = Statement("unflushed", ("text", "int8", "float8"), (int8,))


@dataclass(frozen=True)
class Command:
    """A statement without parameters that is no function: LISTEN, and the probe."""

    sql: bytes
    columns: tuple[Decoder, ...] = ()
    name: bytes = b""
    formats: list[int] = field(default_factory=list, compare=False)

    def encode(self, values: Sequence[Any]) -> list[bytes | None]:
        """Encode nothing."""
        return []


#: The only probe that notices a dropped role: LISTEN, NOTIFY and SELECT 1 go on working.
PROBE = Command(b"SELECT session_user::text", (text,))

BEGIN = Command(b"BEGIN")
#: For a statement that waits for others, and must see what they did: whatever the role's default.
BEGIN_READ_COMMITTED = Command(b"BEGIN ISOLATION LEVEL READ COMMITTED")
COMMIT = Command(b"COMMIT")
#: After each BEGIN: a process that is stopped then holds locks, and the server ends its session.
BRIEFLY = Command(b"SET LOCAL idle_in_transaction_session_timeout = 1000")
ROLLBACK = Command(b"ROLLBACK")


def listen(channel: str) -> Command:
    """Return the LISTEN for a channel name made of letters, digits and underscores."""
    return Command(f'LISTEN "{channel}"'.encode())
