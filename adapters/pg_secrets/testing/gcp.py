"""A Secret Manager that speaks Google's protocol over gRPC on this machine.

There is no emulator of it: this one is made of the types of the client's own package, and knows
``AccessSecretVersion`` alone. It runs as a process of its own, as gRPC's threads survive no fork.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pg_secrets.testing.local_server import LocalServer

PROJECT = "local"
_ASKED = "asked for "
_PATH = re.compile(
    r"projects/[^/]+(/locations/[^/]+)?/secrets/(?P<secret>[^/]+)/versions/(?P<version>[^/]+)"
)


class SecretManagerServer(LocalServer):
    """One server on 127.0.0.1, without TLS. Needs ``google-cloud-secret-manager``.

    What it knows outlives a restart.
    """

    title = "Secret Manager"
    stop_signal = signal.SIGKILL

    def __init__(self, *, port: int | None = None) -> None:
        super().__init__(port=port)
        self._state: dict[str, Any] = {"secrets": {}, "aliases": {}, "fail": None, "corrupt": False}

    @property
    def endpoint(self) -> str:
        """What clients are given."""
        return f"http://{self.host}:{self.port}"

    def put(self, secret: str, value: dict[str, Any] | str | bytes) -> int:
        """Add a version, making the secret if need be; return the version's number."""
        text = json.dumps(value) if isinstance(value, dict) else value
        data = text.encode() if isinstance(text, str) else text
        versions = self._state["secrets"].setdefault(secret, [])
        versions.append({"data": b64encode(data).decode(), "state": "ENABLED"})
        self._write()
        return len(versions)

    def switch_off(self, secret: str, version: int, state: str = "DISABLED") -> None:
        """Disable a version, or with ``"DESTROYED"`` destroy it."""
        self._state["secrets"][secret][version - 1]["state"] = state
        self._write()

    def alias(self, secret: str, name: str, version: int) -> None:
        """Give a version another name."""
        self._state["aliases"][f"{secret}/{name}"] = version
        self._write()

    def fail(self, code: str | None, message: str = "") -> None:
        """Answer everything with a gRPC status (``"UNAVAILABLE"``…), or with ``None`` no more."""
        self._state["fail"] = [code, message] if code else None
        self._write()

    def corrupt(self, wanted: bool) -> None:
        """Damage values on their way, or stop doing so: their checksums stay right."""
        self._state["corrupt"] = wanted
        self._write()

    def requests(self) -> int:
        """Return how many requests were answered since the start."""
        return self._log().count(_ASKED)

    def _command(self) -> list[str | Path]:
        self._write()
        return [sys.executable, "-m", "pg_secrets.testing.gcp", str(self.port), self._file]

    @property
    def _file(self) -> Path:
        return self.directory / "state.json"

    def _write(self) -> None:
        if self._directory is None:
            return
        new = self._file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(self._state))
        new.replace(self._file)


def answer(state: dict[str, Any], name: str, context: Any) -> Any:
    """Return what Secret Manager answers to a request for ``name``."""
    import google_crc32c
    import grpc
    from google.cloud.secretmanager_v1 import types

    if state["fail"]:
        code, message = state["fail"]
        context.abort(grpc.StatusCode[code], message)
    match = _PATH.fullmatch(name)
    secret, version = (match["secret"], match["version"]) if match else ("", "")
    versions = state["secrets"].get(secret, [])
    number = state["aliases"].get(f"{secret}/{version}")
    if number is None and version == "latest":
        number = len(versions)
    elif number is None:
        number = int(version) if version.isdecimal() else 0
    if not 0 < number <= len(versions):
        context.abort(grpc.StatusCode.NOT_FOUND, f"Secret Version [{name}] not found.")
    found = versions[number - 1]
    if found["state"] != "ENABLED":
        text = f"Secret Version [{name}] is in {found['state']} state."
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
    data = b64decode(found["data"])
    checksum = google_crc32c.value(data)
    if state["corrupt"]:
        data = data[::-1]
    path = f"{name.rpartition('/')[0]}/{number}"
    payload = types.SecretPayload(data=data, data_crc32c=checksum)
    return types.AccessSecretVersionResponse(name=path, payload=payload)


def serve(port: int, state: Path) -> None:
    """Answer until the process ends; ``state`` is read anew for each request."""
    import grpc
    from google.cloud.secretmanager_v1 import types

    def access(request: Any, context: Any) -> Any:
        sys.stdout.write(f"{_ASKED}{request.name}\n")
        sys.stdout.flush()
        return answer(json.loads(state.read_text()), request.name, context)

    service = "google.cloud.secretmanager.v1.SecretManagerService"
    handler = grpc.unary_unary_rpc_method_handler(
        access,
        request_deserializer=types.AccessSecretVersionRequest.deserialize,
        response_serializer=types.AccessSecretVersionResponse.serialize,
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"AccessSecretVersion": handler})]
    )
    if server.add_insecure_port(f"127.0.0.1:{port}") != port:
        raise OSError(f"port {port} is taken")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    os.umask(0o077)
    serve(int(sys.argv[1]), Path(sys.argv[2]))
