"""Keeping secrets out of what an error says and out of what it carries."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from pg_secrets.errors import CredentialsError

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)

NOT_SHOWN = "(not shown)"

_LONGEST = 300
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,40}")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_ASSIGNED = re.compile(r"(?i)((?:password|passwd|pwd|secret|token)[\w-]*[\"']?\s*[:=]\s*)\S+")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return one short line of ``text`` without ``secrets``, passwords in URLs and assignments."""
    # The longest first, so that a secret which contains another leaves no tail behind.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = _ASSIGNED.sub(r"\1***", _USERINFO.sub("***", text))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def shown_variable(name: str) -> str:
    """Return a variable's name, or :data:`NOT_SHOWN` where a secret may stand in its place."""
    return name if _VARIABLE.fullmatch(name) else NOT_SHOWN


def shown_path(path: Path) -> str:
    """Return a path, or :data:`NOT_SHOWN` where a secret may stand in its place."""
    return str(path) if path.is_absolute() else NOT_SHOWN


def scrubbed(error: E) -> E:
    """Return ``error`` without the frames of anything chained to it, which may hold a secret.

    Causes stay, and with them what they say. Contexts go: nobody chose to show them.
    """
    links: list[BaseException | None] = [error]
    seen: set[int] = set()
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        links += (link.__cause__, link.__context__)
        # A context may live on elsewhere: its frames are dropped before it is.
        link.__traceback__ = link.__context__ = None
    return error


def stripping(method: Callable[P, R]) -> Callable[P, R]:
    """Make ``method`` the boundary at which a :class:`CredentialsError` is :func:`scrubbed`."""

    @functools.wraps(method)
    def boundary(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except CredentialsError as error:
            failure = scrubbed(error)
        raise failure

    return boundary
