"""The ways to prove to a Vault who we are: a token that is there, or a login.

Another method is one subclass, in ``vault_logins`` or a file of its own, and its name here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pg_secrets.options import Options
from pg_secrets.supplied_secret import SuppliedSecret
from pg_secrets.vault.auth_method import AuthMethod, number
from pg_secrets.vault.aws_login import AwsAuth
from pg_secrets.vault.client import VaultClient
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.gcp_login import GcpAuth
from pg_secrets.vault.logins import LOGINS
from pg_secrets.vault.token import Token
from pg_secrets.vault_wrapping import Wrapping, text


class TokenAuth(AuthMethod):
    """A token that somebody else made: given, in the environment, or in a file.

    ``TOKEN``, or ``TOKEN_ENV`` (a variable's name), or ``TOKEN_FILE`` (a path, read again whenever
    the file is another one, as Vault Agent's sink is). By default ``VAULT_TOKEN``, and where that
    is not set ``~/.vault-token``. With ``WRAPPED`` (bool) it is a wrapping token, with the token in
    it: unwrapped once, and again when another one stands there.
    """

    name = "token"
    repeatable = False

    def __init__(self, token: SuppliedSecret, *, wrapped: bool = False) -> None:
        self._token = token
        self._wrapped = wrapped
        self._wrapping = Wrapping("token", _wrapped_token)
        #: What was given when we last logged in.
        self._given: str | None = None

    @classmethod
    def from_options(cls, options: Options) -> TokenAuth:
        """Read ``TOKEN``, ``TOKEN_ENV`` or ``TOKEN_FILE``, and ``WRAPPED``."""
        default = SuppliedSecret(
            "TOKEN", adapter=options.adapter, env="VAULT_TOKEN", file="~/.vault-token"
        )
        token = SuppliedSecret.from_options(options, "TOKEN", default)
        return cls(token, wrapped=options.flag("WRAPPED", False))

    def log_in(self, client: VaultClient, clock: Callable[[], float]) -> Token:
        """Read the token and ask Vault how long it lives, if its policy lets it ask."""
        now = clock()
        given = self._token.read()
        value = self._wrapping.content(client, given) if self._wrapped else given
        self._given = given
        token = Token(value, now)
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
        if self._token.read() == self._given:
            return None
        return self.log_in(client, clock)

    def changed(self) -> bool:
        """Say whether the file is another one than was read."""
        return self._token.changed()


def _wrapped_token(answer: Answer, purpose: str) -> str | None:
    # A token that was made to be wrapped, or one that somebody wrapped, as Vault Agent's sink does.
    if isinstance(answer.body.get("auth"), dict):
        return text(answer.section("auth", purpose).get("client_token"))
    return text(answer.section("data", purpose).get("token"))


_METHODS: tuple[type[AuthMethod], ...] = (TokenAuth, *LOGINS, AwsAuth, GcpAuth)
AUTH_METHODS: Mapping[str, type[AuthMethod]] = {method.name: method for method in _METHODS}


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
