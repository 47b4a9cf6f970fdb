"""The way into a Vault with a Google Cloud identity: a token that Google, or its key, signed."""

from __future__ import annotations

from pg_secrets.gcp.identity import (
    IAM_CREDENTIALS,
    GcpIdentity,
    MachineIdentity,
    ServiceAccountIdentity,
)
from pg_secrets.options import Options
from pg_secrets.vault.client import READ_TIMEOUT, VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.logins import LoginAuth

_TYPES = ("iam", "gce")
_IAM_ONLY = ("CREDENTIALS_FILE", "SERVICE_ACCOUNT", "ENDPOINT")


class GcpAuth(LoginAuth):
    """Google Cloud: a service account's token, or that of a machine, made for this one login.

    ``ROLE`` (string). ``TYPE`` (string): the role's. ``"gce"`` takes the machine's own token from
    its metadata server. ``"iam"`` signs one with a service account's key from ``CREDENTIALS_FILE``
    (path) or Application Default Credentials; where these are no key, IAM's ``signJwt`` does it,
    asked at ``ENDPOINT`` (URL, default: Google's own), for ``SERVICE_ACCOUNT`` (e-mail address,
    default: the credentials' own). ``TIMEOUT`` (seconds, default 5): how long each answer of
    Google's may take. ``MOUNT`` (default ``"gcp"``). Needs the extra ``gcp``.
    """

    name = "gcp"

    def __init__(self, role: str, identity: GcpIdentity, audience: str, mount: str = "gcp") -> None:
        super().__init__(mount)
        self._role = role
        self._identity = identity
        self._audience = audience

    @classmethod
    def from_options(cls, options: Options) -> GcpAuth:
        """Read ``ROLE``, ``TYPE``, what says which identity, and ``MOUNT``."""
        role = options.text("ROLE")
        kind = options.choice("TYPE", _TYPES)
        timeout = options.seconds("TIMEOUT", READ_TIMEOUT, minimum=0.05, maximum=60)
        mount = options.text("MOUNT", "gcp")
        if kind == "iam":
            return cls(role, _service_account(options, timeout), f"vault/{role}", mount)
        for key in _IAM_ONLY:
            if key in options:
                raise options.error(key, "is only of use together with TYPE 'iam'")
        # Vault looks at the end alone; the metadata server wants a URL.
        return cls(role, MachineIdentity(timeout), f"http://vault/{role}", mount)

    def _answer(self, client: VaultClient) -> Answer:
        jwt = self._identity.token(self._audience, f"Vault login at auth/{self._mount}")
        return client.send(
            lambda vault: vault.auth.gcp.login(
                self._role, jwt, use_token=False, mount_point=self._mount
            )
        )


def _service_account(options: Options, timeout: float) -> ServiceAccountIdentity:
    endpoint = options.text("ENDPOINT", IAM_CREDENTIALS)
    if not endpoint.startswith(("http://", "https://")):
        raise options.error("ENDPOINT", "expected a URL such as https://iam.example")
    return ServiceAccountIdentity(
        options.path("CREDENTIALS_FILE", None),
        options.text("SERVICE_ACCOUNT", None),
        endpoint=endpoint.rstrip("/"),
        timeout=timeout,
    )
