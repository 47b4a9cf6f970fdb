"""Mounts that never show a new value."""

from __future__ import annotations

from pathlib import Path

import pytest

from pg_secrets.files.mounts import why_frozen

MOUNTINFO = r"""
22 1 0:21 / / rw,relatime - overlay overlay rw
30 22 0:40 / /etc/secret rw - tmpfs tmpfs rw
31 22 0:41 /..2026_01_01/password /etc/alone/pass\040word rw - tmpfs tmpfs rw
32 22 0:42 /..2026_01_01/sub /etc/sub rw - tmpfs tmpfs rw
33 22 8:1 /srv/plain /etc/plain rw - ext4 /dev/sda1 rw
short line
"""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/alone/pass word", "mounted by itself"),
        ("/etc/sub/password", "subPath"),
        ("/etc/secret/..2026_02_02/password", None),
        ("/etc/secretly/password", None),
        ("/etc/plain/password", None),
        ("/run/credentials/app/password", "systemd"),
        ("/run/credentials/apple/password", None),
    ],
)
def test_why_frozen(tmp_path: Path, path: str, reason: str | None) -> None:
    """A subPath, a single-file mount and systemd are found out, a whole volume is not blamed."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTINFO)
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/app"}
    found = why_frozen(path, mountinfo=mountinfo, environ=environ)
    assert (reason in found) if reason and found else (found is reason)


def test_without_mountinfo_nothing_is_claimed(tmp_path: Path) -> None:
    """Where the kernel tells no mounts there is no reason to be had."""
    assert why_frozen("/etc/x", mountinfo=tmp_path / "none", environ={}) is None


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    """A file just written is not called frozen, by the real mount table."""
    file = tmp_path / "x"
    file.write_text("x")
    assert why_frozen(str(file), environ={}) is None
