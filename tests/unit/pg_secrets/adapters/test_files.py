"""The files adapter, on real files."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
)
from pg_secrets.files import FilesAdapter


class KubernetesVolume:
    """A secret volume as kubelet writes it: a new folder, one rename of ..data, the old removed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._states = itertools.count(1)

    def show(self, **values: str) -> str:
        """Swap to a state with these files and return its name."""
        link = self.directory / "..data"
        old = os.path.realpath(link) if link.is_symlink() else None
        state = f"..2026_{next(self._states)}"
        (self.directory / state).mkdir()
        for name, value in values.items():
            (self.directory / state / name).write_text(value)
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")
        (self.directory / "..data_tmp").symlink_to(state)
        (self.directory / "..data_tmp").replace(link)
        if old is not None:
            shutil.rmtree(old)
        return state


@pytest.fixture
def volume(tmp_path: Path) -> KubernetesVolume:
    return KubernetesVolume(tmp_path)


def directory(path: Path, **config: Any) -> FilesAdapter:
    return FilesAdapter.from_config({"DIRECTORY": str(path), **config})


def one_file(path: Path, **config: Any) -> FilesAdapter:
    return FilesAdapter.from_config({"PATH": path, **config})


# a mounted directory ----------------------------------------------------------------------


def test_kubernetes_secret(volume: KubernetesVolume) -> None:
    """User and password come from the state ..data points to, whose name is the version."""
    state = volume.show(username="app\n", password="pw\n")
    found = directory(volume.directory).fetch()
    assert found.connection_params() == {"user": "app", "password": "pw"}
    assert found.version == state


def test_further_fields(volume: KubernetesVolume) -> None:
    """Host, port and database are read where their files are named, and not otherwise."""
    volume.show(username="a", password="b", host="h", port="5433\n", dbname="d")
    found = directory(volume.directory, HOST="host", PORT="port", DBNAME="dbname").fetch()
    assert found.parameters == {"host": "h", "port": 5433, "dbname": "d"}
    assert directory(volume.directory).fetch().parameters == {}


def test_swap_is_noticed(volume: KubernetesVolume) -> None:
    """A swap of ..data is seen by changed(), and what is fetched then is new."""
    volume.show(username="a", password="1")
    adapter = directory(volume.directory)
    assert adapter.changed(adapter_result := adapter.fetch()) is False
    volume.show(username="a", password="2")
    assert adapter.changed(adapter_result) is True
    assert adapter.fetch().password == "2"


def test_hammered_swaps_never_tear_a_pair(volume: KubernetesVolume) -> None:
    """However fast ..data is swapped, user and password always are of one state."""
    volume.show(username="u0", password="u0-password")
    adapter = directory(volume.directory)
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            volume.show(username=f"u{number}", password=f"u{number}-password")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        seen = set()
        for _ in range(2000):
            found = adapter.fetch()
            assert found.password == f"{found.user}-password"
            seen.add(found.user)
    finally:
        stop.set()
        swapper.join()
    assert len(seen) > 10


def test_user_is_not_lost_while_an_old_state_is_cleared(volume: KubernetesVolume) -> None:
    """A user file that is optional and vanishes with its old state is not taken for absent."""
    volume.show(username="u1", password="p1")
    adapter = directory(volume.directory)
    real_open = os.open
    swapped: list[str] = []

    def open_and_swap(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        handle = real_open(path, flags, *args, **kwargs)
        if flags & os.O_DIRECTORY and str(path).endswith("..2026_1") and not swapped:
            swapped.append(volume.show(username="u2", password="p2"))
        return handle

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.open", open_and_swap)
        found = adapter.fetch()
    assert swapped
    assert (found.user, found.password) == ("u2", "p2")


def test_release_link_is_followed_once(tmp_path: Path) -> None:
    """A directory that is a link to a release is read below one release."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "username").write_text(name)
        (tmp_path / name / "password").write_text(f"{name}-password")
    (tmp_path / "current").symlink_to("one")
    adapter = directory(tmp_path / "current")
    found = adapter.fetch()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").replace(tmp_path / "current")
    assert (found.user, found.version) == ("one", None)
    assert adapter.changed(found) is True
    assert adapter.fetch().password == "two-password"


def test_plain_directory_is_read_again_when_a_file_is_replaced(tmp_path: Path) -> None:
    """A file replaced between the two reads of a plain directory makes both be read again."""
    (tmp_path / "username").write_text("u1")
    (tmp_path / "password").write_text("p1")
    real_open = os.open
    replaced: list[bool] = []

    def open_and_replace(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == "password" and not replaced:
            for name, value in (("username", "u2"), ("password", "p2")):
                (tmp_path / f"{name}.new").write_text(value)
                (tmp_path / f"{name}.new").replace(tmp_path / name)
            replaced.append(True)
        return real_open(path, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.open", open_and_replace)
        found = directory(tmp_path).fetch()
    assert replaced
    assert (found.user, found.password) == ("u2", "p2")


def test_user_may_be_left_to_the_settings(tmp_path: Path) -> None:
    """Without a file named username the user is left out; one that is named must be there."""
    (tmp_path / "password").write_text("pw")
    assert directory(tmp_path).fetch().connection_params() == {"password": "pw"}
    with pytest.raises(CredentialsNotFound, match="username"):
        directory(tmp_path, USERNAME="username").fetch()


@pytest.mark.parametrize("missing", ["password", "directory"])
def test_missing(tmp_path: Path, missing: str) -> None:
    """A missing password file, or directory, is said to be missing, by its path."""
    where = tmp_path if missing == "password" else tmp_path / "none"
    (tmp_path / "username").write_text("a")
    with pytest.raises(CredentialsNotFound, match=str(where)):
        directory(where).fetch()


def test_error_names_the_file_that_is_empty(tmp_path: Path) -> None:
    """An empty password file is named by its whole path."""
    (tmp_path / "password").write_text("\n")
    with pytest.raises(CredentialsInvalid, match=f"{tmp_path}/password: it is empty"):
        directory(tmp_path).fetch()


# one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "config"),
    [
        ("login.json", '{"username": "app", "password": "pw"}', {}),
        ("login", '\ufeff{"username": "app", "password": "pw"}\r\n', {}),
        ("login", '{"u": "app", "p": "pw"}', {"FIELDS": {"user": "u", "password": "p"}}),
        ("db.env", "PGUSER=app\nPGPASSWORD=pw\n", {}),
        ("db", "U=app\nP=pw\n", {"FORMAT": "dotenv", "FIELDS": {"user": "U", "password": "P"}}),
        (".pgpass", "*:*:*:app:pw\n", {}),
        ("pw", "*:*:*:app:pw\n*:*:*:b:x", {"FORMAT": "pgpass", "MATCH": {"user": "app"}}),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str, config: dict[str, Any]) -> None:
    """JSON, dotenv and pgpass files give user and password, told apart by name or beginning."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    found = one_file(path, **config).fetch()
    assert found.connection_params() == {"user": "app", "password": "pw"}


def test_url_and_bare_password(tmp_path: Path) -> None:
    """A URL is known by its scheme; a bare password has to be called one."""
    path = tmp_path / "secret"
    path.write_text("postgresql://app:pw@db/chat\n")
    assert one_file(path).fetch().parameters["host"] == "db"
    path.write_text("pw\n")
    assert one_file(path, FORMAT="password").fetch().connection_params() == {"password": "pw"}
    with pytest.raises(AdapterMisconfigured, match="option FORMAT"):
        one_file(path).fetch()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b'{"password": "s3cr', "half-written"),
        ("pä".encode("latin-1"), "not UTF-8"),
        ("pw".encode("utf-16"), "not UTF-8"),
        (b"x" * (64 * 1024 + 1), "larger than 65536 bytes"),
    ],
)
def test_bad_content(tmp_path: Path, content: bytes, problem: str) -> None:
    """Empty, half-written, undecodable and huge files are refused, each in its own words."""
    path = tmp_path / "login.json"
    path.write_bytes(content)
    with pytest.raises(CredentialsInvalid, match=problem) as caught:
        one_file(path).fetch()
    assert caught.value.__context__ is None


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    """A directory where the file should be is called one."""
    with pytest.raises(CredentialsInvalid, match="it is a directory"):
        one_file(tmp_path).fetch()


def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    """A FIFO without a writer is refused at once."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CredentialsInvalid, match="not a regular file"):
        one_file(tmp_path / "fifo").fetch()


@pytest.mark.parametrize(
    ("cause", "error"),
    [
        (PermissionError(13, "Permission denied"), CredentialsDenied),
        (NotADirectoryError(20, "Not a directory"), CredentialsNotFound),
        (OSError(116, "Stale file handle"), CredentialsError),
    ],
)
def test_what_the_system_says(tmp_path: Path, cause: OSError, error: type[Exception]) -> None:
    """What the system answers to an open is mapped, with its cause chained bare."""

    def refuse(*_: object, **__: object) -> int:
        raise cause

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.open", refuse)
        with pytest.raises(error) as caught:
            one_file(tmp_path / "x.json").fetch()
    assert caught.value.__cause__ is cause
    assert cause.__traceback__ is None


def write_same_size(path: Path, text: str, mtime_ns: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_replacement_with_equal_time_and_size_is_noticed(tmp_path: Path) -> None:
    """A new inode with the old size and modification time counts as a change."""
    path = tmp_path / "x.json"
    write_same_size(path, '{"password": "one"}', 1_000)
    adapter = one_file(path)
    found = adapter.fetch()
    write_same_size(tmp_path / "new", '{"password": "two"}', 1_000)
    (tmp_path / "new").replace(path)
    assert adapter.changed(found) is True
    assert adapter.fetch().password == "two"


def test_touched_link_and_vanished_file(tmp_path: Path) -> None:
    """A link turned to another file, and a file that is gone, both count as changes."""
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"password": "x"}')
    (tmp_path / "link.json").symlink_to("a.json")
    adapter = one_file(tmp_path / "link.json")
    assert adapter.changed(first := adapter.fetch()) is False
    (tmp_path / "next").symlink_to("b.json")
    (tmp_path / "next").replace(tmp_path / "link.json")
    assert adapter.changed(first) is True
    second = adapter.fetch()
    (tmp_path / "b.json").unlink()
    assert adapter.changed(second) is True


def test_before_the_first_fetch_nothing_is_known(tmp_path: Path) -> None:
    """changed() does not know before anything was read."""
    adapter = one_file(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"password": "x"}')
    assert adapter.changed(one_file(tmp_path / "x.json").fetch()) is None


# warnings ---------------------------------------------------------------------------------


def warnings_of(adapter: FilesAdapter, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, logger="pg_secrets.files"):
        adapter.fetch()
        adapter.fetch()
    return [record.getMessage() for record in caplog.records]


def test_systemd_credentials_are_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in systemd's credentials directory is warned about, once."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").write_text("s3cret")
    messages = warnings_of(directory(tmp_path), caplog)
    assert len(messages) == 1
    assert "never show a rotated password" in messages[0]
    assert "s3cret" not in messages[0]


@pytest.mark.parametrize(
    ("mode", "name", "text", "expected"),
    [
        (0o644, "x.json", '{"password": "x"}', None),
        (0o602, "x.json", '{"password": "x"}', "written to by anybody"),
        (0o600, ".pgpass", "*:*:*:a:b", None),
        (0o640, ".pgpass", "*:*:*:a:b", "chmod 600"),
    ],
)
def test_modes(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: int,
    name: str,
    text: str,
    expected: str | None,
) -> None:
    """Writable by all is warned about; readable by others only where libpq would refuse."""
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    messages = warnings_of(one_file(path), caplog)
    assert [expected in message for message in messages if expected] == [True] * bool(expected)
    assert len(messages) == bool(expected)


# options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "DIRECTORY: is required"),
        ({"PATH": "/x", "DIRECTORY": "/y"}, "PATH: excludes DIRECTORY"),
        ({"PATH": "/x", "USERNAME": "u"}, "PATH: excludes USERNAME"),
        ({"DIRECTORY": "/x", "FORMAT": "json"}, "DIRECTORY: excludes FORMAT"),
        ({"DIRECTORY": "/x", "PASSWORD": "/y"}, "PASSWORD: found an absolute path"),
        ({"PATH": "/x", "FORMAT": "jsn"}, "found 'jsn'.*did you mean json"),
        ({"PATH": "/x", "MATCH": {"user": "a"}}, "MATCH: is only of use"),
        ({"PATH": "/.pgpass", "MATCH": {"usr": "a"}}, "MATCH: knows host"),
        ({"PATH": "/.pgpass", "MATCH": {"user": None}}, "'user' must be"),
        ({"PATH": "/x", "FORMAT": "url", "FIELDS": {"user": "u"}}, "FIELDS: is of no use"),
        ({"PAHT": "/x"}, "PAHT.*did you mean PATH"),
    ],
)
def test_wrong_options(config: dict[str, Any], text: str) -> None:
    """A wrong option is refused when the adapter is built, and named."""
    with pytest.raises(AdapterMisconfigured, match=text):
        FilesAdapter.from_config(config)
