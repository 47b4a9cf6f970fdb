"""``async with timeout(seconds)``: asyncio's own, or its backport where there is none yet.

Not ``asyncio.wait_for``: before Python 3.12 it swallows a cancellation that meets a result. Whoever
was cancelled then goes on, and a connection that was just opened is left to nobody.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = ["timeout"]
