"""A Secrets Manager that speaks AWS' protocol over HTTP on this machine: moto's server."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from pg_secrets.testing.local_server import LocalServer

#: What a client needs in its environment: moto takes any keys, but boto3 wants some.
KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
REGION = "eu-central-1"
CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"


class SecretsManagerServer(LocalServer):
    """One moto server on 127.0.0.1, which also answers for STS. Needs ``moto[server]``."""

    title = "moto"
    stop_signal = signal.SIGKILL

    @property
    def endpoint(self) -> str:
        """The URL that clients are given."""
        return f"http://{self.host}:{self.port}"

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

    def requests(self) -> int:
        """Return how many requests were answered since the start, those of :meth:`put` included."""
        return self._log().count('"POST / HTTP/1.1"')

    def _command(self) -> list[str | Path]:
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def _environment(self) -> dict[str, str]:
        return KEYS
