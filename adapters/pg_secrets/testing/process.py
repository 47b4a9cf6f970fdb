"""A server run as a child that cannot outlive the process that started it."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOBODY = 65534

# The guardian waits for one word on a pipe only we hold. The word means "all is tidy"; end of
# file means we died, however that happened (SIGKILL included), and it ends the server for us.
_GUARDIAN = """
read -r word && exit 0
kill -s "$2" "$1" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
done
kill -KILL "$1" 2>/dev/null
rm -rf -- "$3"
"""


class ServerNotStarted(RuntimeError):
    """A server for tests ended, or stayed deaf, before it could be used."""


class ServerNotInstalled(ServerNotStarted):
    """There is no program on this machine that would be this server."""


class ServerProcess:
    """One running server, in a session of its own so that Ctrl-C does not reach it.

    ``stop_signal`` ends it at once and cleanly; ``directory`` is removed if the owner dies without
    :meth:`stop`. ``as_nobody`` drops root's rights for servers that refuse to run as root.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        directory: Path,
        log: Path,
        environment: Mapping[str, str],
        stop_signal: signal.Signals,
        as_nobody: bool = False,
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._server: subprocess.Popen[bytes] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
                **nobody(as_nobody),
            )
        self._guardian = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "sh", str(self.pid), stop_signal.name[3:], directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def running(self) -> bool:
        return self._server.poll() is None

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines the server wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], *, timeout: float, name: str) -> None:
        """Poll ``ready`` until it is true.

        Raises:
            ServerNotStarted: the server ended or ``timeout`` seconds passed; its log is quoted.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running or time.monotonic() > deadline:
                why = "is not ready in time" if self.running else "ended"
                raise ServerNotStarted(f"{name} {why}; its last lines:\n{self.log_tail()}")
            time.sleep(0.01)

    def stop(self, signal_number: signal.Signals, timeout: float = 20.0) -> None:
        """Send the signal, wait for the end, and kill what has not ended after ``timeout``."""
        if self.running:
            self._server.send_signal(signal_number)
        try:
            self._server.wait(timeout)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        try:
            self._guardian.communicate(b"tidy\n", timeout=5)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.communicate()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process (SIGSTOP) with all its threads, and let it go on afterwards.

    Waits until every thread has stopped, which takes a busy system a moment (proc(5), ``stat``).

    Raises:
        TimeoutError: it went on for ten seconds.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10.0
        while not all(_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} did not stop")
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stopped(thread: Path) -> bool:
    # The state follows the command's name, which stands in brackets and may hold anything.
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def nobody(wanted: bool) -> dict[str, Any]:
    """Return the arguments that make ``subprocess`` drop root's rights, if they are wanted."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if wanted else {}


def reachable_by_others(path: Path) -> bool:
    """Say whether any user may walk to ``path``."""
    path = path.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in [path, *path.parents])


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port nobody listens on, from below the range of outgoing connections.

    A port the system hands out itself could be taken by somebody's outgoing connection while the
    server restarts.
    """
    for _ in range(200):
        port = random.randrange(15000, 32000)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ServerNotStarted("no free TCP port between 15000 and 32000")


def base_environment(**extra: str) -> dict[str, str]:
    """Return a small environment: what a server needs, and nothing that is a secret of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "TZ") if name in os.environ}
    return {**kept, "LC_ALL": "C", **extra}


def forget_client_settings(environ: MutableMapping[str, str] = os.environ) -> None:
    """Delete what would send clients elsewhere than to a server of one's own.

    That is what libpq (``PG*``), Vault's clients (``VAULT_*``, ``BAO_*``), those of AWS and Google
    (``AWS_*``, ``GOOGLE_*``) and HTTP clients (``*_proxy``) read from the environment of somebody
    who uses other servers. ``PG_BIN`` stays.
    Call it before the first connection, and before children are started.
    """
    for name in list(environ):
        prefixes = ("PG", "VAULT_", "BAO_", "AWS_", "GOOGLE_")
        foreign = name.startswith(prefixes) or name.lower().endswith("_proxy")
        if foreign and name != "PG_BIN":
            del environ[name]
