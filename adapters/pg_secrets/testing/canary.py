"""Hunting for a password in everything that leaves a piece of code."""

from __future__ import annotations

import pickle
import secrets
import traceback
from pathlib import Path
from types import TracebackType


class Hunt:
    """Looks for one password, made up for it, in all that a test shows it.

    ``own`` are names of files whose frames may have it: the test itself knows the password.
    ``looked`` counts what has been looked at. A find is an ``AssertionError``.
    """

    def __init__(self, *own: str) -> None:
        self._own = own
        self._canary = f"canary-{secrets.token_hex(8)}"
        self.looked = 0

    def password(self) -> str:
        """Return the password, without its being in an attribute that everybody prints."""
        return self._canary

    def in_text(self, what: str, text: str) -> None:
        """Look at a text; ``what`` says what it is of."""
        self.looked += 1
        assert self._canary not in text, f"the password is in {what}"

    def in_object(self, thing: object) -> None:
        """Look at what an object prints, and at its pickle if it has one."""
        self.in_text(f"the repr of {type(thing).__name__}", f"{thing!r} {thing}")
        try:
            pickled = pickle.dumps(thing)
        except Exception:  # noqa: BLE001 - most things refuse, each in its own way
            return
        self.in_text(f"the pickle of {type(thing).__name__}", pickled.decode("latin-1"))

    def in_exception(self, error: BaseException) -> None:
        """Look at the error, at all it is chained to, and at the locals of all frames not ours."""
        seen: set[int] = set()
        links: list[BaseException | None] = [error]
        while links:
            link = links.pop()
            if link is None or id(link) in seen:
                continue
            seen.add(id(link))
            links += (link.__cause__, link.__context__)
            self.in_text(f"the text of {type(link).__name__}", f"{link!r} {link} {link.args}")
            self.in_text("its attributes", repr(vars(link)))
            assert getattr(link, "pgconn", None) is None
            self._in_frames(link.__traceback__)
        self.in_text("the formatted traceback", "".join(traceback.format_exception(error)))

    def _in_frames(self, link: TracebackType | None) -> None:
        while link is not None:
            frame = link.tb_frame
            if Path(frame.f_code.co_filename).name not in self._own:
                for name, value in frame.f_locals.items():
                    self.in_text(f"local {name} of {frame.f_code.co_name}", _shown(value))
            link = link.tb_next


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - what cannot be shown shows nothing
        return ""
