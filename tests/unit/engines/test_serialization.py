"""Messages to bytes and back."""

from __future__ import annotations

import datetime
import enum
import uuid
from typing import Any

import pytest
from django.utils.safestring import mark_safe

from channels_pg_secrets.engines.serialization import MAX_DEPTH, deserialize, serialize


class Color(enum.IntEnum):
    RED = 3


def nested(depth: int) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "x"}
    for _ in range(depth - 1):
        message = {"inner": message}
    return message


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "chat.message", "text": "h\u00e9llo \U0001f600", "n": -5, "f": 0.5},
        {"bytes": b"\x00\xff", "none": None, "true": True, "false": False},
        {"lowest": -(2**63), "highest": 2**63 - 1},
        {"list": [1, [2, {"three": b"3"}]], "dict": {"a": {"b": {}}}},
    ],
)
def test_every_type_of_the_specification_survives(message: dict[str, Any]) -> None:
    """What is received equals what was sent, types included."""
    received = deserialize(serialize(message))
    assert received == message
    assert [type(value) for value in received.values()] == [type(v) for v in message.values()]


def test_tuples_become_lists() -> None:
    """A tuple is received as a list, at every depth."""
    assert deserialize(serialize({"t": (1, (2, 3))})) == {"t": [1, [2, 3]]}


def test_subclasses_are_sent_as_what_they_are() -> None:
    """A SafeString is received as str and an IntEnum as int, also as part of a list."""
    received = deserialize(serialize({"s": mark_safe("<b>"), "e": [Color.RED]}))
    assert received == {"s": "<b>", "e": [3]}
    assert type(received["s"]) is str
    assert type(received["e"][0]) is int


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"at": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)}, "message['at']"),
        ({"a": {"id": uuid.UUID(int=0)}}, "message['a']['id']"),
        ({"a": [1, {2, 3}]}, "message['a'][1]"),
        ({"a": bytearray(b"x")}, "message['a']"),
    ],
)
def test_a_foreign_type_is_refused_by_its_path(message: dict[str, Any], path: str) -> None:
    """The TypeError names where the value stands and its type."""
    with pytest.raises(TypeError) as caught:
        serialize(message)
    assert path in str(caught.value)


def test_keys_must_be_strings_at_every_depth() -> None:
    """An int as key of an inner dict is refused, and its dict is named."""
    with pytest.raises(TypeError, match=r"message\['a'\]\[0\] has a key of type int"):
        serialize({"a": [{1: "x"}]})


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_integers_beyond_64_bits_are_refused(number: int) -> None:
    """Neither end of the range may be passed, in a list either."""
    with pytest.raises(ValueError, match=r"message\['n'\]"):
        serialize({"n": number})
    with pytest.raises(ValueError, match=r"message\['n'\]\[0\]"):
        serialize({"n": [number]})


def test_text_that_is_not_unicode_is_refused_without_being_shown() -> None:
    """The error for a lone surrogate names the path and carries no part of the text."""
    with pytest.raises(ValueError, match=r"message\['a'\]\[1\]") as caught:
        serialize({"a": ["fine", "canary\ud800"]})
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value, UnicodeError)


def test_a_value_is_never_shown() -> None:
    """The error for a foreign type does not contain the value."""
    with pytest.raises(TypeError) as caught:
        serialize({"secret": frozenset({"canary"})})
    assert "canary" not in str(caught.value)


def test_a_message_that_contains_itself_is_refused() -> None:
    """A cycle ends in a ValueError, not in a RecursionError."""
    message: dict[str, Any] = {}
    message["self"] = message
    with pytest.raises(ValueError, match="deep"):
        serialize(message)


def test_the_deepest_message_passes_and_one_level_more_does_not() -> None:
    """The limit of nesting is exact."""
    assert deserialize(serialize(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="nested"):
        serialize(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("message", [None, [], "text", b"x"])
def test_a_message_is_a_dict(message: Any) -> None:
    """Anything else is a TypeError that names its type."""
    with pytest.raises(TypeError, match=type(message).__name__):
        serialize(message)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1a", b"\x90", b"\x81\x01\x02", b"\x80x"])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    """Truncated, foreign or malformed bytes are a ValueError."""
    with pytest.raises(ValueError):
        deserialize(data)
