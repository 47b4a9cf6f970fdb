"""The two places the demo can keep its database logins in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from channels_pg_secrets.demo.mounted_secret import MountedSecret, SecretRotator
from channels_pg_secrets.demo.progress import Progress
from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine


class SecretStore(ABC):
    """Keeps a login for the migrations and one, ever changing, for the servers."""

    def __init__(
        self, database: FreshDatabase, directory: Path, progress: Progress, *, period: float
    ) -> None:
        self.database = database
        self.directory = directory
        self.progress = progress
        self.period = period
        self._stack = ExitStack()

    @abstractmethod
    def start(self) -> None:
        """Set everything up."""

    @abstractmethod
    def owner_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of a login that may act as the tables' owner."""

    @abstractmethod
    def runtime_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of a login that may use the layer and the chat's table."""

    def stop(self) -> None:
        """Take everything down again."""
        self._stack.close()


class VaultStore(SecretStore):
    """A Vault whose leases are short, cannot be renewed, and end with their sessions."""

    def start(self) -> None:
        """Start OpenBao and let it make logins in the database."""
        with self.progress.step("Starting OpenBao"):
            self._openbao = self._stack.enter_context(OpenBaoServer())
        with self.progress.step("Setting up its database secrets engine"):
            engine = DatabaseSecretsEngine(self._openbao, self.database, mount="database")
            self._engine = self._stack.enter_context(engine)
            # A source takes new credentials when a third to a quarter of the lease is left.
            lease = f"{max(2, int(self.period * 1.3))}s"
            engine.dynamic_role("chat", default_ttl=lease, max_ttl=lease)
            engine.dynamic_role("owner", member_of=self.database.owner.user, default_ttl="10m")

    def owner_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` for the role ``owner``."""
        return self._credentials("owner")

    def runtime_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` for the role ``chat``."""
        return self._credentials("chat")

    def _credentials(self, role: str) -> dict[str, Any]:
        return {
            "ADAPTER": "vault",
            "ADDRESS": self._openbao.address,
            "ROLE": role,
            "AUTH": {"METHOD": "token", "TOKEN": self._engine.token(f"creds/{role}", period="1h")},
        }


class FilesStore(SecretStore):
    """Secrets mounted as in Kubernetes, and a rotator."""

    def start(self) -> None:
        """Write both secrets and begin to change the servers' one."""
        with self.progress.step("Mounting the secrets"):
            self._owner = MountedSecret(self.directory / "owner-secret")
            self._owner.write(self.database.owner)
            login = self.database.login("chat")
            self._runtime = MountedSecret(self.directory / "chat-secret")
            self._runtime.write(login)
            rotator = SecretRotator(self.database, login, self._runtime, period=self.period)
            rotator.start()
            self._stack.callback(rotator.stop)

    def owner_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of the owner's secret."""
        return {"ADAPTER": "files", "DIRECTORY": str(self._owner.directory)}

    def runtime_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of the servers' secret, looked at several times a period."""
        directory = str(self._runtime.directory)
        return {"ADAPTER": "files", "DIRECTORY": directory, "TTL": max(1.0, self.period / 8)}


STORES: dict[str, type[SecretStore]] = {"vault": VaultStore, "files": FilesStore}
