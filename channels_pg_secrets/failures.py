"""Saying what failed in somebody else's code without repeating its text."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parent)
_LIBRARY = sysconfig.get_path("stdlib")


def failure(error: BaseException) -> str:
    """Return the kind of an exception and where it was raised.

    The text of an exception from an engine or a database backend may hold a secret. It is given
    only where none of their code ran, which is Python's own remark about the call.
    """
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind} in {error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _written(frame)]
    if not frames or frames[-1].filename.startswith(_OURS):
        return f"{kind}: {error}"
    return f"{kind} in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}"


def _written(frame: traceback.FrameSummary) -> bool:
    """Say whether a frame is worth a look: os.environ's, of a missing variable, is not."""
    installed = "site-packages" in frame.filename
    library = frame.filename.startswith((_LIBRARY, "<frozen ")) and not installed
    return not library
