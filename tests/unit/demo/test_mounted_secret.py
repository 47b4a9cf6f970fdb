"""The demo's imitation of a mounted secret."""

from __future__ import annotations

from pathlib import Path

from channels_pg_secrets.demo.mounted_secret import MountedSecret
from pg_secrets.testing.database import Login


def test_files_are_replaced_together(tmp_path: Path) -> None:
    """Both files show the new state after a change, and the old state is not kept."""
    secret = MountedSecret(tmp_path / "secret")
    secret.write(Login("ada", "first"))
    before = (secret.directory / "..data").resolve()
    secret.write(Login("grace", "second"))
    assert (secret.directory / "username").read_text() == "grace"
    assert (secret.directory / "password").read_text() == "second"
    assert not before.exists()


def test_the_switch_is_one_link(tmp_path: Path) -> None:
    """Nothing but ``..data`` changes when the secret does, as with the kubelet."""
    secret = MountedSecret(tmp_path / "secret")
    secret.write(Login("ada", "first"))
    links = {name: (secret.directory / name).readlink() for name in ("username", "password")}
    secret.write(Login("ada", "second"))
    assert links == {"username": Path("..data/username"), "password": Path("..data/password")}
    assert {name: (secret.directory / name).readlink() for name in links} == links
