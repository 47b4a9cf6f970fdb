"""What happens at exit and after a fork: in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PRELUDE = """
import atexit, os, sys, threading, time
from pg_secrets import *
from pg_secrets.testing.adapter import ScriptedAdapter, leases

class Reporting(ScriptedAdapter):
    def revoke(self, credentials):
        print(os.getpid() == PARENT, "revoked", credentials.user, flush=True)

PARENT = os.getpid()

def in_child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            sys.stdout.flush()
            code = 0
        except BaseException as error:
            print("failed", repr(error), flush=True)
            code = 1
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""


def run(script: str) -> list[str]:
    """Run a script and return what it printed, line by line."""
    code = PRELUDE + textwrap.dedent(script)
    # Forking beside a thread is what these tests are about; Python warns of it.
    flags = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("background", [True, False])
def test_leases_are_revoked_at_exit(background: bool) -> None:
    """A process that ends gives its leases back, with a background thread and without."""
    script = f"CredentialSource(Reporting(leases()), background={background}).get()"
    assert run(script) == ["True revoked v-1"]


def test_leases_are_revoked_after_connections_have_closed() -> None:
    """Whoever closes at exit what he opened later is served before the lease goes."""
    script = """
        source = CredentialSource(Reporting(leases()))
        hold = source.hold(source.get())
        def close():
            print("closed")
            hold.release()
        atexit.register(close)
    """
    assert run(script) == ["closed", "True revoked v-1"]


def test_lease_whose_connection_never_closes_is_revoked_all_the_same() -> None:
    """A hold that is never released does not keep the lease alive beyond the process."""
    script = """
        source = CredentialSource(Reporting(leases()))
        hold = source.hold(source.get())
    """
    assert run(script) == ["True revoked v-1"]


def test_connection_in_use_at_exit_still_holds_its_lease() -> None:
    """What is not closed when the process ends lets go of its lease after all exit handlers."""
    script = """
        from pg_secrets.connect import _SyncHolder
        atexit.register(lambda: print("holds", source.stats()["holds"], flush=True))
        class Connection(_SyncHolder):
            closed = False
        source = CredentialSource(Reporting(leases()))
        connection, credentials = Connection(), source.get()
        connection.follow(source, credentials, source.hold(credentials))
    """
    assert run(script) == ["holds 1", "True revoked v-1"]


NO_THREADS = """
def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def at_exit(work):
    def last():
        threading.Thread.start = refuse  # as Python 3.12 and later do by themselves
        work()
    atexit.register(last)
"""


def test_source_that_is_closed_at_exit_gives_its_lease_back() -> None:
    """Where no thread can be started any more, close() revokes in the thread it is called from."""
    script = """
        source = CredentialSource(Reporting(leases()))
        source.get()
        def last():
            source.close()
            print("closed", source.adapter.closed)
        at_exit(last)
    """
    assert run(NO_THREADS + textwrap.dedent(script)) == ["True revoked v-1", "closed 1"]


def test_lease_that_is_replaced_and_released_at_exit_is_given_back() -> None:
    """What the refresher finds due at exit, and has no thread for, is revoked with the rest."""
    script = """
        source = CredentialSource(Reporting(leases()))
        hold = source.hold(source.get())
        source.refresh()
        def last():
            hold.release()
            source.tend()
        at_exit(last)
    """
    assert sorted(run(NO_THREADS + textwrap.dedent(script))) == [
        "True revoked v-1",
        "True revoked v-2",
    ]


def test_store_that_hangs_does_not_keep_the_process() -> None:
    """A process ends about two seconds after it wanted to, whatever the store does."""
    script = """
        adapter = ScriptedAdapter(leases())
        CredentialSource(adapter).get()
        adapter.answering.clear()
        atexit.register(lambda: print(time.monotonic()))
    """
    (wanted_to_end,) = run(script)
    assert 1.0 < time.monotonic() - float(wanted_to_end) < 5.0


def test_child_fetches_a_lease_of_its_own_and_revokes_none_of_the_parents() -> None:
    """After a fork the child drops what it inherited, and only the parent gives it back."""
    script = """
        source = CredentialSource(Reporting(leases()))
        first = source.get()
        def child():
            assert source.current is None
            assert source.get().user == "v-2", source.get()
            assert source.generation == 2
            assert source.adapter.forks == 1
            source.hold(first).release()
            source.close()
        in_child(child)
        assert source.get() is first
        print("parent", source.get().user)
    """
    assert run(script) == ["False revoked v-2", "parent v-1", "True revoked v-1"]


CHILDREN = {
    "fork": """
        import multiprocessing
        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(30.0)
    """,
    "spawn": """
        import multiprocessing
        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join(30.0)
    """,
    "billiard": """
        import billiard
        process = billiard.Process(target=child)
        process.start()
        process.join(30.0)
    """,
    "celery": """
        from billiard.pool import Pool
        from celery.concurrency.prefork import process_destructor
        pool = Pool(1, on_process_exit=process_destructor)
        pool.apply(child)
        pool.close()
        pool.join()
    """,
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_children_that_run_no_exit_handlers_give_their_leases_back(
    kind: str, tmp_path: Path
) -> None:
    """A child that multiprocessing, billiard or Celery ends revokes what it fetched."""
    script = tmp_path / "main.py"
    script.write_text(
        PRELUDE.replace("PARENT = os.getpid()", "PARENT = 0")
        + textwrap.dedent("""
        def child():
            CredentialSource(Reporting(leases())).get()
        """)
        + textwrap.dedent(CHILDREN[kind])
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == (["False revoked v-1"], "")


def test_child_keeps_what_is_no_lease() -> None:
    """A static value is inherited: the store is not asked by each child."""
    script = """
        source = CredentialSource(ScriptedAdapter())
        first = source.get()
        in_child(lambda: print(source.get() is first, source.adapter.fetches))
    """
    assert run(script) == ["True 1"]


def test_child_gets_new_locks_and_a_new_thread() -> None:
    """A fork while another thread holds every lock leaves a child that works."""
    script = """
        source = credential_source({"ADAPTER": Reporting, "BACKGROUND": True})
        source.adapter.script = [leases()]
        source.get()
        def child():
            assert source.get().user == "v-2"
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("pg_secrets") == 1, names
            assert source.refresh().user == "v-3"
            assert credential_source({"ADAPTER": Reporting, "BACKGROUND": True}) is source
            source.subscribe(lambda event: None)()
            source.gate.rejected("x")
            print("child works", flush=True)
        from pg_secrets import refresher, registry
        cache, held, forked = source._cache, threading.Event(), threading.Event()
        def hold_everything():
            with cache.lock, cache.book._lock, source._guard._calls:
                with refresher._lock, source._refresher._condition, registry._lock:
                    with source.gate._lock, source.adapter._condition:
                        held.set()
                        forked.wait(30.0)
        holder = threading.Thread(target=hold_everything)
        holder.start()
        held.wait(30.0)
        in_child(child)
        forked.set()
        holder.join()
        source.close()
    """
    assert run(script) == ["child works", "True revoked v-1"]


def test_child_forked_in_the_middle_of_a_fetch_starts_its_own() -> None:
    """A fetch that was under way in the parent is not waited for in the child."""
    script = """
        adapter = ScriptedAdapter()
        adapter.answering.clear()
        source = CredentialSource(adapter, background=False)
        thread = threading.Thread(target=source.get, daemon=True)
        thread.start()
        adapter.wait_for(lambda: adapter.fetches == 1)
        def child():
            adapter.answering.set()
            print(source.get(timeout=5.0).user, adapter.fetches)
        in_child(child)
        adapter.answering.set()
        thread.join()
    """
    assert run(script) == ["app 2"]


def test_children_draw_jitter_of_their_own() -> None:
    """Two children do not refresh in step because they share the parent's random state."""
    script = """
        source = CredentialSource(ScriptedAdapter())
        for _ in range(2):
            in_child(lambda: print(source._cache._random.random()))
    """
    assert len(set(run(script))) == 2


def test_first_use_at_exit_is_an_error_not_a_hang() -> None:
    """Where no thread can be started any more a look-up says so, or still succeeds."""
    script = """
        source = CredentialSource(ScriptedAdapter(), background=True)
        def last():
            try:
                print(source.get(timeout=5.0).user)
            except CredentialsUnavailable as error:
                print("app" if "at exit" in str(error) else error)
        atexit.register(last)
    """
    assert run(script) == ["app"]
