"""A Secrets Manager that speaks AWS' protocol over HTTP on this machine: moto's server."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from pg_secrets.testing.process import (
    ServerNotStarted,
    ServerProcess,
    base_environment,
    free_port,
)

#: What a client needs in its environment: moto takes any keys, but boto3 wants some.
KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "eu-central-1"
CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"


class SecretsManagerServer:
    """One moto server on 127.0.0.1, which also answers for STS. Needs ``moto[server]``.

    Whatever way the owning process ends, the server ends with it. Not thread-safe.

    Raises:
        ServerNotStarted: it did not come up.
    """

    host = "127.0.0.1"

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self._process: ServerProcess | None = None
        self._directory: Path | None = None

    @property
    def endpoint(self) -> str:
        """The URL that clients are given."""
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id, for tests that freeze it; raises when it is not running."""
        if self._process is None:
            raise ServerNotStarted("moto is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server and return when it answers."""
        self._directory = Path(tempfile.mkdtemp(prefix="pg_secrets-moto-"))
        self._process = ServerProcess(
            [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)],
            directory=self._directory,
            log=self._directory / "log",
            environment=base_environment(HOME=str(self._directory), **KEYS),
            stop_signal=signal.SIGKILL,
        )
        try:
            self._process.wait_until(self._answers, timeout=60, name="moto")
        except BaseException:  # an interrupt included: nobody else would end it
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(signal.SIGKILL)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> SecretsManagerServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def client(self, service: str = "secretsmanager") -> Any:
        """Return a boto3 client; the caller closes it."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def put(self, name: str, value: dict[str, Any] | str | bytes, *, stage: str = CURRENT) -> str:
        """Give a secret a value in a stage, making the secret if need be; return the version."""
        text = json.dumps(value) if isinstance(value, dict) else value
        form = {"SecretBinary" if isinstance(text, bytes) else "SecretString": text}
        client = self.client()
        try:
            try:
                answer = client.create_secret(Name=name, **form)
            except client.exceptions.ResourceExistsException:
                answer = client.put_secret_value(SecretId=name, VersionStages=[stage], **form)
            return str(answer["VersionId"])
        finally:
            client.close()

    def promote(self, name: str) -> None:
        """Finish a rotation: what is pending becomes current, what was current becomes previous."""
        client = self.client()
        try:
            stages = client.describe_secret(SecretId=name)["VersionIdsToStages"]
            (pending,) = [version for version, labels in stages.items() if PENDING in labels]
            (current,) = [version for version, labels in stages.items() if CURRENT in labels]
            client.update_secret_version_stage(
                SecretId=name,
                VersionStage=CURRENT,
                MoveToVersionId=pending,
                RemoveFromVersionId=current,
            )
        finally:
            client.close()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return self._process.log_tail(lines) if self._process else ""

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False
