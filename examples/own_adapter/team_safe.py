"""A credential adapter for a secret store that only we have: JSON over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pg_secrets import (
    CredentialAdapter,
    Credentials,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.options import Options

REFUSALS = {401: CredentialsDenied, 403: CredentialsDenied, 404: CredentialsNotFound}


class TeamSafeAdapter(CredentialAdapter):
    """Options: ``ADDRESS``, ``SECRET``, ``TOKEN_FILE``, and ``TIMEOUT`` in seconds (5)."""

    name = "team_safe"

    def __init__(self, url: str, token_file: Path, timeout: float) -> None:
        self.url, self.token_file, self.timeout = url, token_file, timeout

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TeamSafeAdapter:
        options = Options(config, adapter=cls.name)
        url = f"{options.text('ADDRESS')}/secrets/{options.text('SECRET')}"
        token_file = options.path("TOKEN_FILE")
        timeout = options.seconds("TIMEOUT", 5.0, minimum=0.1, maximum=60.0)
        options.finish()  # refuses every other key, and names the nearest one there is
        return cls(url, token_file, timeout)

    def fetch(self) -> Credentials:
        try:
            token = self.token_file.read_text().strip()
            request = Request(self.url, headers={"Authorization": f"Bearer {token}"})
            with urlopen(request, timeout=self.timeout) as answer:
                found = json.loads(answer.read(65536))
            user, password = found["user"], found["password"]
        except HTTPError as error:  # it carries the answer, so it is not chained
            error.close()
            kind = REFUSALS.get(error.code, CredentialsUnavailable)
            raise kind(f"the safe at {self.url} answered {error.code}") from None
        except OSError as error:  # refused, timed out, no token file: trying again may help
            raise CredentialsUnavailable(f"the safe at {self.url}: {error}") from error
        except (ValueError, KeyError, TypeError):  # their text may quote the secret
            raise CredentialsInvalid(f"the safe at {self.url} answered no login") from None
        return Credentials(user=user, password=password, version=found.get("version"))
