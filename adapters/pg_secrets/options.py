"""Reading an adapter's settings: strict about names, kind about mistakes, silent about values."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from pg_secrets.errors import AdapterMisconfigured

T = TypeVar("T")

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or ``None`` when none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


class _Missing:
    """Marks "no default", since ``None`` is a default like any other."""


_MISSING = _Missing()


class Options:
    """One reader for one adapter's settings.

    Ask for every key the adapter knows, then call :meth:`finish`, which refuses what is left.
    Every method raises :class:`AdapterMisconfigured` with the adapter, the key, what kind of value
    was found and what was expected. The value itself is never printed, as any key may turn out to
    hold a secret, except in :meth:`choice`, when it is nearly one of the words allowed there.

    Not thread-safe; made, used and dropped within one ``from_config``.
    """

    def __init__(self, config: Mapping[str, Any], *, adapter: str) -> None:
        if not isinstance(config, Mapping):
            raise AdapterMisconfigured(
                f"adapter {adapter!r}: the settings must be a mapping, found {_kind(config)}"
            )
        self.adapter = adapter
        self._config = dict(config)
        self._known: dict[str, None] = {"ADAPTER": None}

    def __contains__(self, key: str) -> bool:
        """Say whether the key was given (an explicit ``None`` counts as not given)."""
        self._known[key] = None
        return self._config.get(key) is not None

    def __repr__(self) -> str:
        return f"<Options adapter={self.adapter!r} keys={sorted(map(str, self._config))}>"

    # text ---------------------------------------------------------------------------------

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: T) -> str | T: ...
    def text(self, key: str, default: Any = _MISSING) -> Any:
        """Return a string that is not empty, stripped of nothing."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a string that is not empty")
        return value

    @overload
    def choice(self, key: str, choices: Iterable[str]) -> str: ...
    @overload
    def choice(self, key: str, choices: Iterable[str], default: T) -> str | T: ...
    def choice(self, key: str, choices: Iterable[str], default: Any = _MISSING) -> Any:
        """Return one of ``choices``, which are public words: a wrong one is shown."""
        allowed = list(choices)
        value = self._take(key, default)
        if value is default or value in allowed:
            return value
        expected = "one of " + ", ".join(repr(word) for word in allowed)
        if not isinstance(value, str):
            raise self._wrong(key, value, expected)
        close = nearest(value, allowed)
        if close is None:
            # Far from every public word: it may be a token put into the wrong key.
            raise self._wrong(key, value, expected)
        raise self.error(key, f"found {value!r}, expected {expected}{_did_you_mean(close)}")

    @overload
    def path(self, key: str) -> Path: ...
    @overload
    def path(self, key: str, default: T) -> Path | T: ...
    def path(self, key: str, default: Any = _MISSING) -> Any:
        """Return a path with ``~`` expanded; whether it exists is the adapter's question."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
            raise self._wrong(key, value, "a path")
        return Path(value).expanduser()

    # numbers ------------------------------------------------------------------------------

    @overload
    def seconds(self, key: str, *, minimum: float = ..., maximum: float = ...) -> float: ...
    @overload
    def seconds(
        self, key: str, default: T, *, minimum: float = ..., maximum: float = ...
    ) -> float | T: ...
    def seconds(
        self,
        key: str,
        default: Any = _MISSING,
        *,
        minimum: float = 0.0,
        maximum: float = 10 * 365 * 86400.0,
    ) -> Any:
        """Return a duration: a number of seconds, or text such as ``"90"``, ``"15m"``, ``"1h"``."""
        value = self._take(key, default)
        if value is default:
            return value
        seconds = _seconds(value)
        if seconds is None or not minimum <= seconds <= maximum:
            expected = f'seconds between {minimum:g} and {maximum:g}, as 30, "30s", "5m" or "1h"'
            raise self._wrong(key, value, expected)
        return seconds

    @overload
    def integer(self, key: str, *, minimum: int = ..., maximum: int = ...) -> int: ...
    @overload
    def integer(
        self, key: str, default: T, *, minimum: int = ..., maximum: int = ...
    ) -> int | T: ...
    def integer(
        self, key: str, default: Any = _MISSING, *, minimum: int = 0, maximum: int = 2**31 - 1
    ) -> Any:
        """Return a whole number; decimal digits in a string count as one."""
        value = self._take(key, default)
        if value is default:
            return value
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if not isinstance(number, int) or isinstance(number, bool):
            raise self._wrong(key, value, "a whole number")
        if not minimum <= number <= maximum:
            raise self._wrong(key, value, f"a whole number between {minimum} and {maximum}")
        return number

    @overload
    def flag(self, key: str) -> bool: ...
    @overload
    def flag(self, key: str, default: T) -> bool | T: ...
    def flag(self, key: str, default: Any = _MISSING) -> Any:
        """Return a truth value; ``"true"``, ``"yes"``, ``"on"``, ``"1"`` and opposites count."""
        value = self._take(key, default)
        if value is default or isinstance(value, bool):
            return value
        word = value.strip().casefold() if isinstance(value, str) else ""
        if word not in _TRUE | _FALSE:
            raise self._wrong(key, value, "True or False")
        return word in _TRUE

    # collections --------------------------------------------------------------------------

    @overload
    def mapping(self, key: str) -> dict[str, Any]: ...
    @overload
    def mapping(self, key: str, default: T) -> dict[str, Any] | T: ...
    def mapping(self, key: str, default: Any = _MISSING) -> Any:
        """Return a copy of a mapping whose keys are strings."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key, value, "a mapping with strings for keys")
        return dict(value)

    def texts(self, key: str) -> list[str]:
        """Return a list, at least one long, of strings, the first of which is not empty."""
        value = self._take(key, _MISSING)
        right = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        if not right or not value or not value[0]:
            raise self._wrong(key, value, "a list of strings")
        return list(value)

    def items(self, key: str) -> list[Any]:
        """Return a list of anything, at least one long."""
        value = self._take(key, _MISSING)
        if not isinstance(value, (list, tuple)) or not value:
            raise self._wrong(key, value, "a list with something in it")
        return list(value)

    # the end ------------------------------------------------------------------------------

    def error(self, key: str, message: str) -> AdapterMisconfigured:
        """Return, not raise, an error about ``key``; ``message`` must hold no secret."""
        return AdapterMisconfigured(f"adapter {self.adapter!r}, option {key}: {message}")

    def finish(self) -> None:
        """Refuse every key that nobody asked for, naming the nearest one that is known."""
        unknown = [key for key in self._config if key not in self._known]
        if not unknown:
            return
        known = sorted(set(self._known) - {"ADAPTER"})
        # Somebody may have put the secret where the key belongs: only plausible names are shown.
        shown = [str(key) if _plausible(key) else "(not a name)" for key in unknown]
        hints = [_did_you_mean(nearest(str(key), known)) for key in unknown]
        listed = ", ".join(name + hint for name, hint in zip(shown, hints, strict=True))
        raise AdapterMisconfigured(
            f"adapter {self.adapter!r} does not know: {listed}. It knows: {', '.join(known)}"
        )

    def _take(self, key: str, default: Any) -> Any:
        self._known[key] = None
        value = self._config.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            # A misspelt key is the usual reason why a required one is missing.
            close = nearest(key, (str(name) for name in self._config if name not in self._known))
            hint = f"; found {close}, which is not known" if close and _plausible(close) else ""
            raise self.error(key, f"is required and missing{hint}")
        return default

    def _wrong(self, key: str, value: object, expected: str) -> AdapterMisconfigured:
        return self.error(key, f"found {_kind(value)}, expected {expected}")


def _plausible(key: object) -> bool:
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]{0,39}", key) is not None


def _did_you_mean(name: str | None) -> str:
    return f" (did you mean {name}?)" if name else ""


def _kind(value: object) -> str:
    if value is None:
        return "None"
    if value == "":
        return "an empty string"
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {type(value).__name__}"


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) * _UNITS[match[2] or "s"] if match else None
