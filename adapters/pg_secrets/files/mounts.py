"""Finding out whether a file is mounted in a way that can never show a new value."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of ``/proc/self/mountinfo``: what part of a file system is seen where."""

    root: str
    point: str


def why_frozen(
    path: str, *, mountinfo: Path = MOUNTINFO, environ: Mapping[str, str] | None = None
) -> str | None:
    """Return why the file at ``path`` will never change while this process runs, or ``None``.

    Known are systemd's credentials, single files mounted by themselves (Kubernetes' ``subPath``,
    a bind mount) and folders mounted by ``subPath``. Where the mounts cannot be read: ``None``.
    """
    resolved = os.path.realpath(path)
    credentials = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY")
    if credentials and Path(os.path.realpath(credentials)) in Path(resolved).parents:
        return "systemd fills its credentials directory once, when the service starts"
    mount = _holding(resolved, _mounts(mountinfo))
    if mount is None:
        return None
    if mount.point == resolved:
        return (
            "it is mounted by itself (a subPath or a bind mount of one file), which keeps the file"
            " it began with; mount the directory instead"
        )
    # Kubernetes keeps each state of a secret in a folder that begins with two dots.
    if any(part.startswith("..") for part in mount.root.split("/")):
        return "its directory is mounted by subPath, which never follows; mount the whole volume"
    return None


def _holding(path: str, mounts: Iterator[Mount]) -> Mount | None:
    found = None
    for mount in mounts:
        within = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of equal mount points the last one hides the others.
        if within and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _mounts(mountinfo: Path) -> Iterator[Mount]:
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in text.splitlines():
        parts = line.split(" ")
        if len(parts) > 4:
            yield Mount(_unescaped(parts[3]), _unescaped(parts[4]))


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
