"""The ways to prove to a Vault who we are, each a small object of its own.

Another method is one subclass of :class:`AuthMethod` and one line in ``AUTH_METHODS``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pg_secrets.errors import CredentialsDenied, CredentialsInvalid
from pg_secrets.options import Options
from pg_secrets.supplied_secret import SuppliedSecret
from pg_secrets.vault_client import VaultClient
from pg_secrets.vault_errors import Answer
from pg_secrets.vault_token import Token


class AuthMethod(ABC):
    """Gets a token. Called under the session's lock, never twice at a time."""

    name: ClassVar[str] = ""
    #: Whether logging in gives a new token each time, so that an old one can be replaced.
    repeatable: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_options(cls, options: Options) -> AuthMethod:
        """Build from the ``AUTH`` setting; ``METHOD`` has been read."""

    @abstractmethod
    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Return a token.

        Raises:
            CredentialsDenied: Vault refuses this identity.
            CredentialsError: anything else that went wrong.
        """

    def log_in_again(
        self, client: VaultClient, clock: Callable[[], float], refused: Token
    ) -> Token | None:
        """Return another token after ``refused`` was, or ``None`` when there is no other."""
        return self.log_in(client, clock)

    def changed(self) -> bool:
        """Say cheaply whether there is a newer identity than the one last used."""
        return False


class TokenAuth(AuthMethod):
    """A token that somebody else made: given, in the environment, or in a file.

    ``TOKEN``, or ``TOKEN_ENV`` (a variable's name), or ``TOKEN_FILE`` (a path, read again whenever
    the file is another one, as Vault Agent's sink is). By default ``VAULT_TOKEN``, and where that
    is not set ``~/.vault-token``.
    """

    name = "token"
    repeatable = False

    def __init__(self, token: SuppliedSecret) -> None:
        self._token = token

    @classmethod
    def from_options(cls, options: Options) -> TokenAuth:
        """Read ``TOKEN``, ``TOKEN_ENV`` or ``TOKEN_FILE``."""
        default = SuppliedSecret(
            "TOKEN", adapter=options.adapter, env="VAULT_TOKEN", file="~/.vault-token"
        )
        return cls(SuppliedSecret.from_options(options, "TOKEN", default))

    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Read the token and ask Vault how long it lives, if its policy lets it ask."""
        now = clock()
        token = Token(self._token.read(), now)
        answer = client.send(lambda vault: vault.auth.token.lookup_self(), token=token.value)
        if answer.refuses(403):
            return token  # the request it is for will tell whether it is good
        data = answer.section("data", "Vault token lookup")
        token.life = number(data.get("ttl")) or None
        token.renewable = data.get("renewable") is True
        return token

    def log_in_again(
        self, client: VaultClient, clock: Callable[[], float], refused: Token
    ) -> Token | None:
        """Return the token that stands there by now, if it is another one."""
        if self._token.read() == refused.value:
            return None
        return self.log_in(client, clock)

    def changed(self) -> bool:
        """Say whether the file is another one than was read."""
        return self._token.changed()


class AppRoleAuth(AuthMethod):
    """AppRole: a role id and, unless the role does without, a secret id.

    ``ROLE_ID`` and ``SECRET_ID``, each also as ``…_ENV`` (a variable's name) or ``…_FILE`` (a
    path), read afresh for every login. ``MOUNT`` (default ``"approle"``).
    """

    name = "approle"

    def __init__(
        self, role_id: SuppliedSecret, secret_id: SuppliedSecret | None, mount: str = "approle"
    ) -> None:
        self._role_id = role_id
        self._secret_id = secret_id
        self._mount = mount

    @classmethod
    def from_options(cls, options: Options) -> AppRoleAuth:
        """Read ``ROLE_ID``, ``SECRET_ID`` and ``MOUNT``."""
        return cls(
            SuppliedSecret.from_options(options, "ROLE_ID"),
            SuppliedSecret.optional(options, "SECRET_ID"),
            options.text("MOUNT", "approle"),
        )

    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Exchange the ids for a token."""
        now = clock()
        answer = client.send(
            lambda vault: vault.auth.approle.login(
                self._role_id.read(),
                self._secret_id.read() if self._secret_id else None,
                use_token=False,  # else hvac stores the token, and fails on odd answers
                mount_point=self._mount,
            )
        )
        return issued(answer, now, f"Vault login at auth/{self._mount}")


AUTH_METHODS: Mapping[str, type[AuthMethod]] = {
    method.name: method for method in (TokenAuth, AppRoleAuth)
}


def auth_method(options: Options) -> AuthMethod:
    """Return what the ``AUTH`` setting asks for.

    Raises:
        AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
    """
    settings = options.mapping("AUTH", {"METHOD": TokenAuth.name})
    auth = Options(settings, adapter=f"{options.adapter}, AUTH")
    method = AUTH_METHODS[auth.choice("METHOD", AUTH_METHODS)].from_options(auth)
    auth.finish()
    return method


def issued(answer: Answer, asked_at: float, purpose: str) -> Token:
    """Return the token that a login answered with.

    Raises:
        CredentialsDenied: Vault refused.
        CredentialsInvalid: there is no token in the answer.
        CredentialsError: as :meth:`Answer.error` says.
    """
    if answer.refuses(403, 404):
        # A login needs no token: this is what Vault says where nothing is mounted.
        raise CredentialsDenied(
            f"{purpose}: there is no such way in ({answer.words}); check AUTH's MOUNT and NAMESPACE"
        )
    auth = answer.section("auth", purpose)
    value = auth.get("client_token")
    if not isinstance(value, str) or not value:
        raise CredentialsInvalid(f"{purpose}: the answer holds no token")
    life = number(auth.get("lease_duration")) or None
    return Token(value, asked_at, life, renewable=auth.get("renewable") is True, owned=True)


def number(value: Any) -> float | None:
    """Return a number of seconds that is not negative, or ``None`` for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return None
