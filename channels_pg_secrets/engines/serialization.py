"""Messages to bytes and back: msgpack, and Channels' rules about what a message may hold."""

from __future__ import annotations

from typing import Any

import msgpack

_PLAIN = frozenset({str, bytes, bool, float, type(None)})
_NESTED = frozenset({dict, list, tuple})
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
#: Deeper nesting is refused: far beyond any real message, well within Python's own limit.
MAX_DEPTH = 100


def serialize(message: dict[str, Any]) -> bytes:
    """Return a message as msgpack; tuples become lists.

    Raises:
        TypeError: something in it is of a type Channels does not carry; the text names where.
        ValueError: an integer beyond 64 bits, text that is not Unicode, or nesting too deep.
    """
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, found {type(message).__name__}")
    if not _plain(message, 1):
        # Slowly, and so with the path: either to say what is wrong, or for subclasses of str etc.
        _check(message, "message", 1)
    try:
        return msgpack.packb(message, use_bin_type=True)  # type: ignore[no-any-return]
    except UnicodeEncodeError:
        # That exception carries the text itself.
        raise ValueError(
            f"{_not_unicode(message, 'message')} holds a lone surrogate, which is not Unicode text"
        ) from None


def deserialize(data: bytes) -> dict[str, Any]:
    """Return the message in ``data``.

    Raises:
        ValueError: ``data`` is no message.
    """
    try:
        message = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException):
        raise ValueError(f"{len(data)} bytes that are not a msgpack message") from None
    if not isinstance(message, dict):
        raise ValueError(f"a message must be a dict, found {type(message).__name__}")
    return message


def _plain(message: dict[Any, Any] | list[Any] | tuple[Any, ...], depth: int) -> bool:
    """Say whether everything inside is of exactly the types a message holds."""
    if depth > MAX_DEPTH:
        return False
    values: Any = message
    if type(message) is dict:
        for key in message:
            if type(key) is not str:
                return False
        values = message.values()
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is int:
            if not _LOWEST <= value <= _HIGHEST:
                return False
        elif kind not in _NESTED or not _plain(value, depth + 1):
            return False
    return True


def _check(value: object, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"a message may be nested {MAX_DEPTH} deep; {_short(path)} is deeper")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"{_short(path)} has a key of type {type(key).__name__}; keys must be str"
                )
            _check(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, int):
        if not _LOWEST <= value <= _HIGHEST:
            raise ValueError(f"{_short(path)} is an integer of more than 64 bits")
    elif not (value is None or isinstance(value, (str, bytes, float))):
        raise TypeError(
            f"{_short(path)} is of type {type(value).__name__}; a message holds"
            " str, bytes, int, float, bool, None, and lists and dicts of those"
        )


def _not_unicode(value: object, path: str) -> str:
    """Return the path of the first text that cannot be encoded."""
    if isinstance(value, str):
        return _short(path) if _broken(value) else ""
    if isinstance(value, dict):
        if any(_broken(key) for key in value):
            return f"a key of {_short(path)}"
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return ""
    found = (_not_unicode(item, f"{path}[{key!r}]") for key, item in items)
    return next(filter(None, found), "")


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:120]}…{path[-60:]}"
