"""One login for each adapter to find: in a real store where there is one to run here."""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.testing.aws import REGION, SecretsManagerServer
from pg_secrets.testing.database import Login
from pg_secrets.testing.gcp import PROJECT, SecretManagerServer
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine


@dataclass(frozen=True)
class Place:
    """``CREDENTIALS`` for one adapter, and what its store has seen of it.

    ``served`` counts at the store, ``first`` is how many of these the first fetch takes; a later
    one takes one. ``login`` says whether the test's database takes what is found for a login.
    """

    config: dict[str, Any]
    served: Callable[[], int] | None = None
    first: int = 1
    login: bool = True


class Builder:
    """Puts a login into the places; each method is an adapter's name, or one with its variant."""

    def __init__(self, request: pytest.FixtureRequest, login: Login, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._values = {"username": login.user, "password": login.password}

    def vault(self) -> Place:
        """A dynamic role: the store counts its leases."""
        engine: DatabaseSecretsEngine = self._request.getfixturevalue("vault_database")
        openbao = engine.openbao
        config = {
            "ADAPTER": "vault",
            "ADDRESS": openbao.address,
            "MOUNT": engine.mount,
            "ROLE": "dynamic",
            "AUTH": {"METHOD": "token", "TOKEN": openbao.root_token},
        }

        def leases() -> int:
            answer = engine.client.list(f"sys/leases/lookup/{engine.mount}/creds/dynamic")
            return len(answer["data"]["keys"]) if answer else 0

        return Place(config, leases)

    def aws(self) -> Place:
        """A secret of moto's: one request for the value, one for the next rotation's date."""
        self._request.getfixturevalue("aws_identity")
        server: SecretsManagerServer = self._request.getfixturevalue("aws_server")
        name = f"place/{secrets.token_hex(4)}"
        server.put(name, self._values)
        config = {"SECRET": name, "REGION": REGION, "ENDPOINT": server.endpoint}
        return Place({"ADAPTER": "aws", **config}, server.requests, first=2)

    def gcp(self) -> Place:
        """A secret over gRPC."""
        server: SecretManagerServer = self._request.getfixturevalue("gcp_server")
        name = f"place-{secrets.token_hex(4)}"
        server.put(name, self._values)
        config = {"SECRET": name, "PROJECT": PROJECT, "ENDPOINT": server.endpoint}
        return Place({"ADAPTER": "gcp", **config}, server.requests)

    def gcp_rest(self) -> Place:
        """A secret over HTTP, as processes want it that fork."""
        server: ScriptedHttpServer = self._request.getfixturevalue("http_server")
        payload = {"data": b64encode(json.dumps(self._values).encode()).decode()}
        path = f"/v1/projects/{PROJECT}/secrets/app/versions/latest:access"
        name = "projects/1/secrets/app/versions/7"
        server.script("GET", path, HttpAnswer(body={"name": name, "payload": payload}))
        config = {"SECRET": "app", "PROJECT": PROJECT, "ENDPOINT": server.address}
        config["TRANSPORT"] = "rest"
        return Place({"ADAPTER": "gcp", **config}, lambda: len(server.requests))

    def files(self) -> Place:
        """A mounted secret."""
        for name, value in self._values.items():
            (self._folder / name).write_text(value)
        return Place({"ADAPTER": "files", "DIRECTORY": str(self._folder)})

    def env(self) -> Place:
        """Two variables."""
        patch: pytest.MonkeyPatch = self._request.getfixturevalue("monkeypatch")
        for name, value in self._values.items():
            patch.setenv(f"PLACE_{name.upper()}", value)
        names = {"USERNAME": "PLACE_USERNAME", "PASSWORD": "PLACE_PASSWORD"}
        return Place({"ADAPTER": "env", **names})

    def command(self) -> Place:
        """A program that notes each time it is run."""
        runs, document = self._folder / "runs", self._folder / "login.json"
        runs.touch()
        document.write_text(json.dumps(self._values))
        script = 'echo run >> "$1"; cat "$2"'
        command = ["/bin/sh", "-c", script, "sh", str(runs), str(document)]
        served = lambda: len(runs.read_text().splitlines())  # noqa: E731
        return Place({"ADAPTER": "command", "COMMAND": command}, served)

    def oauth(self) -> Place:
        """A provider's token endpoint, over TLS."""
        server: ScriptedHttpServer = self._request.getfixturevalue("tls_server")
        token = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}
        server.script("POST", "/token", HttpAnswer(body=token))
        client = {"CLIENT_ID": "app", "CLIENT_SECRET": "cl1ent", "USERNAME": "app"}
        config = {"ADAPTER": "oauth", "TOKEN_URL": f"{server.address}/token", **client}
        return Place(config, lambda: server.count("/token"), login=False)

    def rds_iam(self) -> Place:
        """Tokens that are signed here: there is nobody to ask."""
        self._request.getfixturevalue("aws_identity")
        config = {"HOST": "db.example", "USERNAME": "app", "REGION": REGION}
        return Place({"ADAPTER": "rds_iam", **config}, login=False)

    def chain(self) -> Place:
        """Variables that are not set, then AWS."""
        found = self.aws()
        nothing = {"ADAPTER": "env", "USERNAME": "PLACE_UNSET", "PASSWORD": "PLACE_UNSET"}
        config = {"ADAPTER": "chain", "ADAPTERS": [nothing, found.config]}
        return Place(config, found.served, found.first)


#: All adapters there are, and Google's a second time.
PLACES = (
    "vault",
    "aws",
    "gcp",
    "gcp_rest",
    "files",
    "env",
    "command",
    "oauth",
    "rds_iam",
    "chain",
)
