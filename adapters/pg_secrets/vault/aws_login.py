"""The way into a Vault with an AWS identity: a request to AWS that Vault sends on our behalf."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace

from pg_secrets.aws.client import AwsClient, AwsPlace
from pg_secrets.options import Options
from pg_secrets.vault.client import VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.logins import LoginAuth

#: What Vault asks STS, and all that it lets a client sign (AWS STS API Reference).
_WHO_AM_I = "Action=GetCallerIdentity&Version=2011-06-15"
_SERVER_ID = "X-Vault-AWS-IAM-Server-ID"
#: The region of STS' global endpoint, which Vault asks unless it is told otherwise.
_GLOBAL = "us-east-1"


class AwsAuth(LoginAuth):
    """AWS, type IAM: a signed question to STS, "who am I?", which Vault asks in our place.

    ``ROLE`` (string, default: Vault takes the identity's own name). ``SERVER_ID`` (string): what
    the mount's ``iam_server_id_header_value`` is. ``REGION`` (string) and ``ENDPOINT`` (URL): of
    the STS that the mount asks; default is the global one, as is Vault's. ``PROFILE``,
    ``ROLE_ARN`` and what belongs to it as for the adapter ``aws``, and as there keys come from
    wherever boto3 finds them; they are not sent. ``MOUNT`` (default ``"aws"``). Needs the extra
    ``aws``.
    """

    name = "aws"

    def __init__(
        self, place: AwsPlace, role: str | None, server_id: str | None, mount: str = "aws"
    ) -> None:
        super().__init__(mount)
        self._region = place.region or _GLOBAL
        self._url = (place.endpoint or _endpoint(place.region)).rstrip("/") + "/"
        self._role = role
        self._server_id = server_id
        # Where Vault asks is no place for us to ask.
        self._identity = AwsClient(replace(place, region=self._region, endpoint=None), "sts")

    @classmethod
    def from_options(cls, options: Options) -> AwsAuth:
        """Read ``ROLE``, ``SERVER_ID``, what says which identity and which STS, and ``MOUNT``."""
        place = AwsPlace.from_options(options)
        return cls(
            place,
            options.text("ROLE", None),
            options.text("SERVER_ID", None),
            options.text("MOUNT", "aws"),
        )

    def _answer(self, client: VaultClient) -> Answer:
        role = {} if self._role is None else {"role": self._role}
        question = self._question()
        # hvac's own method signs for the global endpoint alone, and with keys that stay.
        return client.send(
            lambda vault: vault.write_data(f"auth/{self._mount}/login", data={**role, **question})
        )

    def _question(self) -> dict[str, str]:
        """Return the request that Vault is to send, as its parameters."""
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        if self._server_id is not None:
            headers[_SERVER_ID] = self._server_id
        purpose = f"Vault login at auth/{self._mount}"
        request = self._identity.signed(self._url, _WHO_AM_I, headers, purpose)
        return {
            "iam_http_request_method": request.method,
            "iam_request_url": _encoded(self._url),
            "iam_request_body": _encoded(_WHO_AM_I),
            "iam_request_headers": _encoded(json.dumps(dict(request.headers.items()))),
        }


def _endpoint(region: str | None) -> str:
    if region is None:
        return "https://sts.amazonaws.com"
    china = ".cn" if region.startswith("cn-") else ""
    return f"https://sts.{region}.amazonaws.com{china}"


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
