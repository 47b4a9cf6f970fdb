"""Ways into a Vault with an identity that somebody else vouches for.

Each sends what proves the identity to ``auth/MOUNT/login`` and gets a token back; what differs is
where the proof comes from and what Vault calls its parts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pg_secrets.errors import AdapterMisconfigured
from pg_secrets.options import Options
from pg_secrets.supplied_secret import SuppliedPassword, SuppliedSecret
from pg_secrets.vault.auth_method import AuthMethod, issued
from pg_secrets.vault.client import VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.token import Token
from pg_secrets.vault_wrapping import Wrapping, text

#: Where Kubernetes mounts a pod's own token, and changes it now and then.
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class LoginAuth(AuthMethod):
    """A login at ``auth/MOUNT``, read and made afresh each time."""

    def __init__(self, mount: str) -> None:
        self._mount = mount

    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Exchange what proves the identity for a token."""
        now = clock()
        return issued(self._answer(client), now, f"Vault login at auth/{self._mount}")

    @abstractmethod
    def _answer(self, client: VaultClient) -> Answer:
        """Send the login."""


class AppRoleAuth(LoginAuth):
    """AppRole: a role id and, unless the role does without, a secret id.

    ``ROLE_ID`` and ``SECRET_ID``, each also as ``…_ENV`` (a variable's name) or ``…_FILE`` (a
    path), read afresh for every login. With ``WRAPPED`` (bool) the secret id is a wrapping token:
    it is unwrapped once, and again when another one stands there. ``MOUNT`` (default
    ``"approle"``).
    """

    name = "approle"

    def __init__(
        self,
        role_id: SuppliedSecret,
        secret_id: SuppliedSecret | None,
        mount: str = "approle",
        *,
        wrapped: bool = False,
    ) -> None:
        super().__init__(mount)
        self._role_id = role_id
        self._secret_id = secret_id
        self._wrapped = wrapped
        self._wrapping = Wrapping("secret id", _secret_id)

    @classmethod
    def from_options(cls, options: Options) -> AppRoleAuth:
        """Read ``ROLE_ID``, ``SECRET_ID``, ``WRAPPED`` and ``MOUNT``."""
        role_id = SuppliedSecret.from_options(options, "ROLE_ID")
        secret_id = SuppliedSecret.optional(options, "SECRET_ID")
        wrapped = options.flag("WRAPPED", False)
        if wrapped and secret_id is None:
            raise options.error("WRAPPED", "is only of use together with SECRET_ID")
        return cls(role_id, secret_id, options.text("MOUNT", "approle"), wrapped=wrapped)

    def _answer(self, client: VaultClient) -> Answer:
        role_id, secret_id = self._role_id.read(), self._secret(client)
        return client.send(
            lambda vault: vault.auth.approle.login(
                role_id,
                secret_id,
                use_token=False,  # else hvac stores the token, and fails on odd answers
                mount_point=self._mount,
            )
        )

    def _secret(self, client: VaultClient) -> str | None:
        if self._secret_id is None:
            return None
        given = self._secret_id.read()
        return self._wrapping.content(client, given) if self._wrapped else given


class KubernetesAuth(LoginAuth):
    """Kubernetes: a pod's service account.

    ``ROLE`` (string). ``TOKEN``, ``TOKEN_ENV`` or ``TOKEN_FILE`` (default: where Kubernetes mounts
    it), read afresh for every login. ``MOUNT`` (default ``"kubernetes"``).
    """

    name = "kubernetes"

    def __init__(self, role: str, token: SuppliedSecret, mount: str = "kubernetes") -> None:
        super().__init__(mount)
        self._role = role
        self._token = token

    @classmethod
    def from_options(cls, options: Options) -> KubernetesAuth:
        """Read ``ROLE``, ``TOKEN`` and ``MOUNT``."""
        default = SuppliedSecret("TOKEN", adapter=options.adapter, file=SERVICE_ACCOUNT)
        token = SuppliedSecret.from_options(options, "TOKEN", default)
        return cls(options.text("ROLE"), token, options.text("MOUNT", "kubernetes"))

    def _answer(self, client: VaultClient) -> Answer:
        token = self._token.read()
        return client.send(
            lambda vault: vault.auth.kubernetes.login(
                self._role, token, use_token=False, mount_point=self._mount
            )
        )


class JwtAuth(LoginAuth):
    """JWT and OIDC: a token of an identity provider, as CI systems and meshes hand out.

    ``JWT``, ``JWT_ENV`` or ``JWT_FILE``, read afresh for every login. ``ROLE`` (string, default:
    the mount's own). ``MOUNT`` (default ``"jwt"``).
    """

    name = "jwt"

    def __init__(self, role: str | None, jwt: SuppliedSecret, mount: str = "jwt") -> None:
        super().__init__(mount)
        self._role = role
        self._jwt = jwt

    @classmethod
    def from_options(cls, options: Options) -> JwtAuth:
        """Read ``JWT``, ``ROLE`` and ``MOUNT``."""
        jwt = SuppliedSecret.from_options(options, "JWT")
        return cls(options.text("ROLE", None), jwt, options.text("MOUNT", "jwt"))

    def _answer(self, client: VaultClient) -> Answer:
        jwt = self._jwt.read()
        return client.send(
            lambda vault: vault.auth.jwt.jwt_login(
                self._role, jwt, use_token=False, path=self._mount
            )
        )


class UserpassAuth(LoginAuth):
    """A user's name and password, kept by Vault itself.

    ``USERNAME`` (string). ``PASSWORD``, ``PASSWORD_ENV`` or ``PASSWORD_FILE``, read afresh for
    every login. ``MOUNT`` (default ``"userpass"``).
    """

    name = "userpass"

    def __init__(self, username: str, password: SuppliedSecret, mount: str) -> None:
        super().__init__(mount)
        self._username = username
        self._password = password

    @classmethod
    def from_options(cls, options: Options) -> UserpassAuth:
        """Read ``USERNAME``, ``PASSWORD`` and ``MOUNT``."""
        password = SuppliedPassword.from_options(options, "PASSWORD")
        return cls(options.text("USERNAME"), password, options.text("MOUNT", cls.name))

    def _answer(self, client: VaultClient) -> Answer:
        password = self._password.read()

        def send(vault: Any) -> Any:
            method = getattr(vault.auth, self.name)
            return method.login(self._username, password, use_token=False, mount_point=self._mount)

        return client.send(send)


class LdapAuth(UserpassAuth):
    """A user's name and password, kept by an LDAP directory.

    Options as for ``userpass``; ``MOUNT`` is ``"ldap"`` by default.
    """

    name = "ldap"


class CertAuth(LoginAuth):
    """A TLS client certificate, which Vault has to ask for itself: no proxy may end the TLS.

    ``CERT_FILE`` and ``KEY_FILE`` (paths, PEM), read afresh for every login. ``NAME`` (string,
    default: any that fits) of Vault's role. ``MOUNT`` (default ``"cert"``).
    """

    name = "cert"

    def __init__(self, certificate: Path, key: Path, role: str | None, mount: str) -> None:
        super().__init__(mount)
        self._certificate = certificate
        self._key = key
        self._role = role or ""

    @classmethod
    def from_options(cls, options: Options) -> CertAuth:
        """Read ``CERT_FILE``, ``KEY_FILE``, ``NAME`` and ``MOUNT``."""
        files = options.path("CERT_FILE"), options.path("KEY_FILE")
        for key, file in zip(("CERT_FILE", "KEY_FILE"), files, strict=True):
            if not file.is_file():
                raise options.error(key, f"there is no file {file}")
        return cls(*files, options.text("NAME", None), options.text("MOUNT", "cert"))

    def _answer(self, client: VaultClient) -> Answer:
        if not client.address.verify:
            raise AdapterMisconfigured(
                "adapter 'vault', AUTH: METHOD 'cert' needs VERIFY: who does not know the server"
                " must not show it a certificate"
            )
        return client.send(
            lambda vault: vault.auth.cert.login(
                name=self._role,  # the server is checked as in all requests
                cert_pem=str(self._certificate),
                key_pem=str(self._key),
                mount_point=self._mount,
                use_token=False,
            )
        )


LOGINS: tuple[type[AuthMethod], ...] = (
    AppRoleAuth,
    KubernetesAuth,
    JwtAuth,
    UserpassAuth,
    LdapAuth,
    CertAuth,
)


def _secret_id(answer: Answer, purpose: str) -> str | None:
    return text(answer.section("data", purpose).get("secret_id"))
