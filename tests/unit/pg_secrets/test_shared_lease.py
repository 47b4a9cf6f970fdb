"""One lease for all processes of a host: who asks, who renews, who gives back."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets import shared_lease
from pg_secrets.chain import ChainAdapter
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import AdapterMisconfigured, CredentialsUnavailable
from pg_secrets.registry import credential_source
from pg_secrets.shared_folder import SharedFolder
from pg_secrets.shared_lease import SharedAdapter, shared_key
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.clock import FakeClock


class Store(ScriptedAdapter):
    """A store with tokens: notes whose token it was told to go on with."""

    def __init__(self, token: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token = token
        self.left = 0

    def lease_ground(self, credentials: Credentials) -> Mapping[str, Any] | None:
        return {"token": self.token}

    def take_ground(self, credentials: Credentials, ground: Mapping[str, Any]) -> None:
        self.token = ground["token"]

    def leave(self) -> None:
        self.left += 1


Member = Callable[..., tuple[SharedAdapter, Store]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory as it has to be."""
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def member(folder: Path) -> Member:
    """Call it for another process' adapter, and the store behind it. All take the same leases."""
    hand_out, clock, count = leases(100), FakeClock(), iter(range(1, 100))

    def extended(store: Store) -> Credentials:
        return Credentials(user="v-1", password="secret-1", lease=Lease("lease-1", 100, True))

    def make(key: str = "key", **changes: Any) -> tuple[SharedAdapter, Store]:
        store = Store(f"token-{next(count)}", changes.pop("script", hand_out))
        store.renewals = [lambda: extended(store)]
        return SharedAdapter(store, folder, key, clock=clock.time), store

    make.clock = clock  # type: ignore[attr-defined]
    return make


def advance(member: Member, seconds: float) -> None:
    member.clock.advance(seconds)  # type: ignore[attr-defined]


def test_who_comes_second_takes_what_the_first_has(member: Member) -> None:
    """Four processes that fetch have one lease, which ends for all of them at the same time."""
    (one, first), *others = [member() for _ in range(4)]
    fetched = one.fetch()
    advance(member, 10)
    assert fetched.lease is not None
    assert (fetched.lease.id, fetched.lease.duration) == ("lease-1", 100)
    for adapter, store in others:
        taken = adapter.fetch()
        assert taken.fingerprint == fetched.fingerprint
        assert taken.lease is not None
        assert (taken.lease.id, taken.lease.duration) == ("lease-1", 90)
        assert taken.expires_at == fetched.expires_at
        assert store.fetches == 0
    assert first.fetches == 1


def test_one_renews_for_all(member: Member) -> None:
    """A renewal is seen by the others when they want to renew, and made with the first's token."""
    (one, first), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    advance(member, 70)
    renewed = two.renew(yours)
    assert renewed is not None
    assert renewed.lease is not None
    assert renewed.lease.duration == 100
    assert (second.renewed, second.token) == (1, "token-1")
    seen = one.renew(mine)
    assert seen is not None
    assert seen.expires_at == renewed.expires_at
    assert first.renewed == 0


def test_who_renews_asks_for_the_whole_lease(member: Member) -> None:
    """Who came late asks for as much as was granted at first, not for the rest he was given."""
    (one, _), (two, second) = member(), member()
    one.fetch()
    advance(member, 60)
    late = two.fetch()
    asked: list[Credentials] = []

    def renew(credentials: Credentials) -> Credentials | None:
        asked.append(credentials)
        return None

    second.renew = renew  # type: ignore[method-assign]
    assert two.renew(late) is None
    assert [call.lease and call.lease.duration for call in asked] == [100]


def test_new_lease_is_noticed(member: Member) -> None:
    """When one has another lease the others see that, take it, and renew the old no more."""
    (one, _), (two, second) = member(), member()
    one.fetch()
    old = two.fetch()
    assert two.changed(old) is False
    assert one.fetch().user == "v-2"
    assert two.changed(old) is True
    assert two.renew(old) is None
    new = two.fetch()
    assert (new.user, second.fetches, two.changed(new)) == ("v-2", 0, False)


def test_renewal_is_noticed(member: Member) -> None:
    """A renewal by another process is seen, and a fetch then brings it, not a new lease."""
    (one, first), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    advance(member, 70)
    renewed = one.renew(mine)
    assert renewed is not None
    assert two.changed(yours) is True
    found = two.fetch()
    assert (found.user, found.expires_at) == ("v-1", renewed.expires_at)
    assert two.changed(found) is False
    assert (first.fetches, second.fetches) == (1, 0)


def test_renewal_of_a_while_ago_is_made_again(member: Member) -> None:
    """Who comes late renews once more: what is left would look like one that was cut short."""
    (one, _), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    advance(member, 67)
    one.renew(mine)
    advance(member, 10)
    renewed = two.renew(yours)
    assert renewed is not None
    assert renewed.lease is not None
    assert (renewed.lease.duration, second.renewed) == (100, 1)


def test_last_one_out_gives_back(member: Member) -> None:
    """A lease is given back once, by the last process that used it, with the token it hangs on."""
    (one, first), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    one.revoke(mine)
    assert first.revoked == []
    two.revoke(yours)
    assert [gone.user for gone in second.revoked] == ["v-1"]
    assert second.token == "token-1"
    (three, third) = member()
    assert (three.fetch().user, third.fetches) == ("v-2", 1)


def test_old_lease_is_given_back_by_whoever_moves_last(member: Member) -> None:
    """A lease that was replaced stays for those who have not moved, and so does the new one."""
    (one, first), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    new = one.fetch()
    one.revoke(mine)
    two.fetch()
    two.revoke(yours)
    assert (first.revoked, [gone.user for gone in second.revoked]) == ([], ["v-1"])
    (three, _) = member()
    assert three.fetch().user == new.user


def test_tokens_stay_until_the_last_is_closed(member: Member) -> None:
    """Closing revokes no token while another process is there; the last one closes for good."""
    (one, first), (two, second) = member(), member()
    one.revoke(one.fetch())
    two.revoke(two.fetch())
    one.close()
    assert (first.left, first.closed) == (1, 0)
    two.close()
    assert (second.left, second.closed) == (0, 1)


def test_one_that_never_fetched_is_closed(member: Member) -> None:
    """Who shared nothing has nothing to leave to others."""
    adapter, store = member()
    adapter.close()
    assert (store.left, store.closed) == (0, 1)


def test_lease_that_the_database_refused(member: Member) -> None:
    """A refused login is replaced by the first to whom it happens, and the others take that."""
    (one, first), (two, second) = member(), member()
    mine, yours = one.fetch(), two.fetch()
    two.rejected(yours)
    assert two.fetch().user == "v-2"
    one.rejected(mine)
    assert one.fetch().user == "v-2"
    assert (first.fetches, second.fetches) == (1, 1)


def test_lease_that_is_about_to_end_is_not_taken(member: Member) -> None:
    """A new process takes no lease with less than a tenth of its life left."""
    (one, _), (two, second) = member(), member()
    one.fetch()
    advance(member, 91)
    assert (two.fetch().user, second.fetches) == ("v-2", 1)


def test_what_has_no_lease_is_not_shared(member: Member, folder: Path) -> None:
    """Without a lease each process fetches for itself, and nothing is written."""
    static = Credentials(user="app", password="pw")
    (one, first), (two, second) = member(script=static), member(script=static)
    first.newer = True
    for adapter in (one, two):
        found = adapter.fetch()
        assert adapter.renew(found) is not None  # as the store says
        adapter.revoke(found)
    assert (first.fetches, second.fetches, len(first.revoked)) == (1, 1, 1)
    assert one.changed(static) is True
    assert list(folder.glob("*.json")) == []


def test_another_configuration_is_another_lease(member: Member) -> None:
    """Settings that differ share a folder and nothing else."""
    (one, _), (two, second) = member(), member("other")
    assert one.fetch().user != two.fetch().user
    assert second.fetches == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"lease": 1}', "\0", "null"])
def test_file_that_makes_no_sense(member: Member, folder: Path, text: str) -> None:
    """A file that somebody damaged is as good as none, and is written anew."""
    (one, _), (two, second) = member(), member()
    (folder / "key.json").write_text(text)
    fetched = one.fetch()
    assert (two.fetch().user, second.fetches) == (fetched.user, 0)


def test_ground_that_makes_no_sense(
    member: Member, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease whose token was written by another version is renewed with a token of one's own."""
    (one, _), (two, second) = member(), member()
    one.fetch()
    yours = two.fetch()
    file = folder / "key.json"
    file.write_text(file.read_text().replace('"token":', '"ticket":'))
    advance(member, 70)
    assert two.renew(yours) is not None
    assert (second.renewed, second.token) == (1, "token-2")
    assert "not understood" in caplog.text


def test_files_are_private(member: Member, folder: Path) -> None:
    """Nobody else may read what lies in the folder, whatever the umask."""
    before = os.umask(0)
    try:
        adapter, _ = member()
        adapter.fetch()
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}
    assert "secret-1" not in repr(adapter)


def test_what_killed_processes_left_is_cleared_away(member: Member, folder: Path) -> None:
    """Files of memberships that nobody holds any more go when a new lease is written."""
    (one, _) = member()
    (folder / "key.0123456789abcdef").touch(0o600)
    one.fetch()
    one.fetch()
    assert len(list(folder.glob("key.????????????????"))) == 2  # of the two leases in use


def test_leases_that_ended_leave_nothing_open(member: Member, folder: Path) -> None:
    """A lease that nobody gave back, since it ended first, keeps no file and no handle."""
    (adapter, _) = member()
    adapter.fetch()
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        advance(member, 100)
        adapter.fetch()
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert len(list(folder.glob("key.????????????????"))) == 1


def test_folder_that_cannot_be_written_to(
    member: Member, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lease that cannot be shared is used all the same, and given back by its process."""

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(SharedFolder, "write", full)
    adapter, store = member()
    found = adapter.fetch()
    assert "cannot be written" in caplog.text
    adapter.revoke(found)
    assert len(store.revoked) == 1


def test_process_that_does_not_come_back_from_the_store(
    member: Member, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for another process ends, with what may be tried again."""
    monkeypatch.setattr(shared_lease, "PATIENCE", 0.05)
    monkeypatch.setattr(shared_lease, "_PATIENCE_AT_THE_END", 0.05)
    (one, _), (two, second) = member(), member()
    mine = one.fetch()
    two.fetch()
    with SharedFolder(folder, "key").locked(1.0):
        with pytest.raises(CredentialsUnavailable, match="another process"):
            two.fetch()
        with pytest.raises(CredentialsUnavailable, match="another process"):
            one.revoke(mine)
        two.close()
    assert second.left == 1


def test_folder_that_went_away(member: Member, folder: Path) -> None:
    """A folder that was removed is an error of the family, not a crash."""
    adapter, store = member()
    found = adapter.fetch()
    shutil.rmtree(folder)
    with pytest.raises(AdapterMisconfigured, match="No such file"):
        adapter.fetch()
    with pytest.raises(CredentialsUnavailable, match="No such file"):
        adapter.renew(found)
    with pytest.raises(CredentialsUnavailable, match="No such file"):
        adapter.revoke(found)
    adapter.close()
    assert store.left == 1


def test_link_in_the_folder_is_not_followed(member: Member, folder: Path, tmp_path: Path) -> None:
    """A link where a lock belongs is refused."""
    (folder / "key.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CredentialsUnavailable):
        member()[0].fetch()
    assert not (tmp_path / "elsewhere").exists()


FORK = """
import os, sys
from pathlib import Path
from pg_secrets.shared_lease import SharedAdapter
from pg_secrets.testing.adapter import ScriptedAdapter, leases

store = ScriptedAdapter(leases())
adapter = SharedAdapter(store, Path(sys.argv[1]), "key")
found = adapter.fetch()

def in_child(work):
    pid = os.fork()
    if pid == 0:
        adapter.forked()
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def inherits():
    assert adapter.fetch().user == found.user
    assert store.fetches == 1
    adapter.revoke(found)
    assert store.revoked == []

in_child(inherits)
in_child(lambda: None)
other = ScriptedAdapter(leases())
stranger = SharedAdapter(other, Path(sys.argv[1]), "key")
stranger.revoke(stranger.fetch())
assert (other.fetches, other.revoked) == (0, [])
parent = os.getpid()
if os.fork() == 0:
    adapter.forked()
    adapter.fetch()
    print("alive", flush=True)
    while os.getppid() == parent:  # changes after the parent's files are closed
        os.sched_yield()
    adapter.revoke(found)
    print(len(store.revoked), flush=True)
    os._exit(0)
sys.stdin.readline()
"""


def test_forked_child_is_a_process_like_others(folder: Path) -> None:
    """A child takes its parent's lease as anybody would, and gives it back if it outlives it."""
    flags = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *flags, "-c", FORK, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"alive\n"
        parent.stdin.close()
        assert parent.wait(30) == 0
        assert parent.stdout.read() == b"1\n"


# the option -------------------------------------------------------------------------------


def test_option_of_any_adapter(folder: Path) -> None:
    """SHARED stands beside an adapter's own options."""
    config = {"ADAPTER": ScriptedAdapter, "USER": "app", "SHARED": str(folder)}
    source = credential_source(config)
    assert source.get().user == "app"
    assert isinstance(source.adapter, SharedAdapter)
    assert source.stats()["adapter"] == "scripted"
    source.close()


@pytest.mark.parametrize("where", ["missing", "a file", "a link", "open", "a stranger's"])
def test_folder_that_others_may_enter(
    folder: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is not this user's alone is refused, with what to do about it."""
    (tmp_path / "a file").touch()
    (tmp_path / "a link").symlink_to(folder)
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "a stranger's").mkdir(mode=0o700)
    if where == "a stranger's":
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    source = credential_source({"ADAPTER": ScriptedAdapter, "SHARED": str(tmp_path / where)})
    with pytest.raises(AdapterMisconfigured, match=r"SHARED.*this user's own, mode 0700"):
        source.get()
    source.close()


def test_objects_cannot_be_compared() -> None:
    """An object in the settings is no other process' object: it is refused."""
    with pytest.raises(AdapterMisconfigured, match="SHARED: the settings hold a function"):
        shared_key("own", {"HOOK": test_objects_cannot_be_compared}, ScriptedAdapter())


def test_equal_settings_have_equal_keys() -> None:
    """The order of keys, and paths or text, make no difference; values and the place do."""
    adapter = ScriptedAdapter()
    first = shared_key("vault", {"ROLE": "app", "AUTH": {"TOKEN_FILE": Path("/x")}}, adapter)
    assert first == shared_key("vault", {"AUTH": {"TOKEN_FILE": "/x"}, "ROLE": "app"}, adapter)
    assert first != shared_key("vault", {"AUTH": {"TOKEN_FILE": "/y"}, "ROLE": "app"}, adapter)
    assert first == shared_key(
        "vault", {"ROLE": "app", "AUTH": {"TOKEN_FILE": "/x"}}, ScriptedAdapter()
    )


def test_shared_is_no_adapter() -> None:
    """What the option makes is not to be named as an adapter."""
    with pytest.raises(AdapterMisconfigured, match="option SHARED"):
        SharedAdapter.from_config({})


def test_chain_tells_where_a_lease_is_from(member: Member, folder: Path) -> None:
    """Behind a chain, whoever renews or gives back asks the member that the lease is from."""
    _, first = member()
    chains = [ChainAdapter([ScriptedAdapter(Credentials()), first]) for _ in range(2)]
    chains[0]._chosen = first
    ground = chains[0].lease_ground(Credentials())
    assert ground is not None
    chains[1].take_ground(Credentials(), ground)
    chains[1].revoke(Credentials(user="x"))
    assert [gone.user for gone in first.revoked] == ["x"]
    chains[1].leave()
    assert first.left == 1
