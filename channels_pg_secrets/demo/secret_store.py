"""The places the demo can keep its database logins in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from channels_pg_secrets.demo.mounted_secret import MountedSecret, SecretRotator, WrittenSecret
from channels_pg_secrets.demo.progress import Progress
from pg_secrets.testing.database import FreshDatabase, Login
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

    @property
    def environment(self) -> dict[str, str]:
        """Variables that whoever reads the credentials needs."""
        return {}

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


class PasswordStore(SecretStore):
    """A place in which somebody puts one user's password, and another one after each period."""

    #: What the place is called while it is set up.
    place: ClassVar[str]

    def start(self) -> None:
        """Put both logins there and begin to change the servers' one."""
        with self.progress.step(self.place):
            self.prepare()
            self.secret("owner").write(self.database.owner)
            login, secret = self.database.login("chat"), self.secret("chat")
            secret.write(login)
            rotator = SecretRotator(self.database, login, secret, period=self.period)
            rotator.start()
            self._stack.callback(rotator.stop)

    def prepare(self) -> None:
        """Start what keeps the logins, if anything has to be."""

    @abstractmethod
    def secret(self, name: str) -> WrittenSecret:
        """Return the secret of that name, for writing."""

    @abstractmethod
    def credentials(self, name: str) -> dict[str, Any]:
        """Return ``CREDENTIALS`` for reading it."""

    def owner_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of the owner's secret."""
        return self.credentials("owner")

    def runtime_credentials(self) -> dict[str, Any]:
        """Return ``CREDENTIALS`` of the servers' secret, looked at several times a period."""
        return {**self.credentials("chat"), "TTL": max(1.0, self.period / 8)}


class FilesStore(PasswordStore):
    """Secrets mounted as in Kubernetes."""

    place = "Mounting the secrets"

    def secret(self, name: str) -> MountedSecret:
        return MountedSecret(self._mount(name))

    def credentials(self, name: str) -> dict[str, Any]:
        return {"ADAPTER": "files", "DIRECTORY": str(self._mount(name))}

    def _mount(self, name: str) -> Path:
        return self.directory / f"{name}-secret"


class EnvStore(FilesStore):
    """The same, named by variables as Docker's images have it: ``X_FILE`` holds ``X``."""

    place = "Mounting the secrets that variables name"

    @property
    def environment(self) -> dict[str, str]:
        return {
            f"{name.upper()}_{part.upper()}_FILE": str(self._mount(name) / part)
            for name in ("owner", "chat")
            for part in ("username", "password")
        }

    def credentials(self, name: str) -> dict[str, Any]:
        variable = name.upper()
        return {
            "ADAPTER": "env",
            "USERNAME": f"{variable}_USERNAME",
            "PASSWORD": f"{variable}_PASSWORD",
        }


class CommandStore(PasswordStore):
    """A program that prints the login: here, what a file holds."""

    place = "Writing down what a program will print"

    def secret(self, name: str) -> PrintedSecret:
        return PrintedSecret(self._file(name))

    def credentials(self, name: str) -> dict[str, Any]:
        return {"ADAPTER": "command", "COMMAND": ["/bin/cat", str(self._file(name))]}

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}-login.json"


class AwsStore(PasswordStore):
    """AWS Secrets Manager, as moto speaks its protocol."""

    place = "Starting moto's Secrets Manager"

    def prepare(self) -> None:
        from pg_secrets.testing.aws import SecretsManagerServer

        self._server = self._stack.enter_context(SecretsManagerServer())

    @property
    def environment(self) -> dict[str, str]:
        from pg_secrets.testing.aws import KEYS

        return {**KEYS, "AWS_EC2_METADATA_DISABLED": "true"}

    def secret(self, name: str) -> StoredSecret:
        return StoredSecret(self._server.put, name)

    def credentials(self, name: str) -> dict[str, Any]:
        from pg_secrets.testing.aws import REGION

        where = {"ENDPOINT": self._server.endpoint, "REGION": REGION}
        return {"ADAPTER": "aws", "SECRET": name, **where}


class GcpStore(PasswordStore):
    """Google's Secret Manager, as our server for tests speaks its protocol."""

    place = "Starting a Secret Manager"

    def prepare(self) -> None:
        from pg_secrets.testing.gcp import SecretManagerServer

        self._server = self._stack.enter_context(SecretManagerServer())

    def secret(self, name: str) -> StoredSecret:
        return StoredSecret(self._server.put, name)

    def credentials(self, name: str) -> dict[str, Any]:
        from pg_secrets.testing.gcp import PROJECT

        where = {"ENDPOINT": self._server.endpoint, "PROJECT": PROJECT}
        return {"ADAPTER": "gcp", "SECRET": name, **where}


class PrintedSecret:
    """A login in a file, replaced as a whole."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, login: Login) -> None:
        """Replace it."""
        new = self._file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps({"username": login.user, "password": login.password}))
        new.replace(self._file)


class StoredSecret:
    """A login in a store that is told so by a call."""

    def __init__(self, put: Callable[[str, dict[str, Any]], object], name: str) -> None:
        self._put = put
        self._name = name

    def write(self, login: Login) -> None:
        """Make it the store's current value."""
        self._put(self._name, {"username": login.user, "password": login.password})


STORES: dict[str, type[SecretStore]] = {
    "vault": VaultStore,
    "aws": AwsStore,
    "gcp": GcpStore,
    "files": FilesStore,
    "env": EnvStore,
    "command": CommandStore,
}
