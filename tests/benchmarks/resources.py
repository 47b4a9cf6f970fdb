"""CPU seconds and memory of this process, and of a server with all its children, from /proc."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def usage(*, reset: bool = False) -> dict[str, float]:
    """Return this process's CPU seconds, resident bytes, and their peak since the last reset."""
    if reset:
        with contextlib.suppress(OSError):
            # 5 sets the peak back to what is resident now.
            Path("/proc/self/clear_refs").write_text("5")
    sizes = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            sizes[name] = float(value.split()[0]) * 1024
    return {"cpu": time.process_time(), "resident": sizes["VmRSS"], "peak": sizes["VmHWM"]}


def server_cpu(pid: int) -> float:
    """Return the CPU seconds of a server process and all of its children, past ones included."""
    seconds = _own(pid) + _of_ended_children(pid)
    for child in _children(pid):
        with contextlib.suppress(OSError):
            seconds += _own(child)
    return seconds


def _own(pid: int) -> float:
    # The scheduler's own figure is in nanoseconds; the clock ticks of "stat" are too coarse here.
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def _of_ended_children(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICKS


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
