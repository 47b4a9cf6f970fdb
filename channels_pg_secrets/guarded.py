"""Dicts that hold secrets and do not show them."""

from __future__ import annotations

from typing import Any


class GuardedDict(dict[str, Any]):
    """Settings or libpq keywords; its ``repr`` shows the names and hides every value.

    Tracebacks print the local variables of a frame in debug pages and error trackers: what may
    hold a password is kept in one of these while it waits in a variable.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(map(str, self)) or 'nothing'}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} may hold a password and cannot be pickled")

    def copy(self) -> GuardedDict:
        """Return a copy that guards its values as well."""
        return GuardedDict(self)

    def __copy__(self) -> GuardedDict:
        return GuardedDict(self)
