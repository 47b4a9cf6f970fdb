"""Tokens of an OAuth 2.0 or OpenID provider as passwords, by the client-credentials grant."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import (
    AdapterNotInstalled,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.options import Options
from pg_secrets.redaction import redact, stripping
from pg_secrets.supplied_secret import SuppliedPassword, SuppliedSecret
from pg_secrets.tls import tls_parameters
from pg_secrets.unlogged import unlogged

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 5.0
#: The loggers that show requests and answers at DEBUG, and with them secret and token.
_TALKATIVE = (
    "requests_oauthlib.oauth2_session",
    "oauthlib.oauth2.rfc6749.clients.base",
    "oauthlib.oauth2.rfc6749.parameters",
)
#: What a provider says of a client that it does not know, or that may not do this (RFC 6749, 5.2).
_REFUSALS = frozenset(
    {"invalid_client", "unauthorized_client", "access_denied", "invalid_grant", "invalid_scope"}
)


class OAuthAdapter(CredentialAdapter):
    """Asks a provider for an access token and uses it as the password; needs the extra ``oauth``.

    For databases that take such tokens: Azure Database for PostgreSQL with Microsoft Entra ID, or
    a server whose proxy or PAM module checks them.

    ``TOKEN_URL`` (https URL)
        The provider's token endpoint; or instead
    ``ISSUER`` (https URL)
        the provider itself, whose ``/.well-known/openid-configuration`` names it.
    ``CLIENT_ID`` (string), and ``CLIENT_SECRET``, ``CLIENT_SECRET_ENV`` or ``CLIENT_SECRET_FILE``
        Who asks; the secret is read afresh each time.
    ``SCOPE``, ``AUDIENCE`` (strings, default: none)
        What the token is to be for.
    ``USERNAME`` (string, default: that of the connection's settings)
        The database user.
    ``SSLMODE``, ``SSLROOTCERT``
        As for ``rds_iam``: the token goes over the wire as it is, so TLS is a must.
    ``CONNECT_TIMEOUT`` (seconds, default 3), ``TIMEOUT`` (seconds, default 5)
        How long connecting, and each wait for an answer, may take.

    Safe to use from several threads, one request at a time, and after a fork.
    """

    name: ClassVar[str] = "oauth"

    def __init__(
        self,
        *,
        token_url: str | None = None,
        issuer: str | None = None,
        client_id: str,
        client_secret: SuppliedSecret,
        scope: str | None = None,
        audience: str | None = None,
        user: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
        clock: Callable[[], float] = time.time,
    ) -> None:
        _import_requests_oauthlib()
        self._token_url = token_url
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._audience = audience
        self._user = user
        self._parameters = dict(parameters or {})
        self._timeout = timeout
        self._clock = clock

    def __repr__(self) -> str:
        return f"<OAuthAdapter {self._client_id} at {self._provider}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, clock: Callable[[], float] = time.time
    ) -> OAuthAdapter:
        """Build from settings; nothing is sent.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: requests-oauthlib is not installed.
        """
        options = Options(config, adapter="oauth")
        urls = {key: options.text(key, None) for key in ("TOKEN_URL", "ISSUER")}
        given = [key for key, url in urls.items() if url is not None]
        if len(given) != 1:
            raise options.error("TOKEN_URL", "or ISSUER is required, and only one of them")
        for key in given:
            # Over anything else the client's secret and the token could be read by others.
            if not str(urls[key]).startswith("https://"):
                raise options.error(key, "expected a URL that begins with https://")
        adapter = cls(
            token_url=urls["TOKEN_URL"],
            issuer=urls["ISSUER"],
            client_id=options.text("CLIENT_ID"),
            client_secret=SuppliedPassword.from_options(options, "CLIENT_SECRET"),
            scope=options.text("SCOPE", None),
            audience=options.text("AUDIENCE", None),
            user=options.text("USERNAME", None),
            parameters=tls_parameters(options),
            timeout=(
                options.seconds("CONNECT_TIMEOUT", CONNECT_TIMEOUT, minimum=0.05, maximum=60),
                options.seconds("TIMEOUT", READ_TIMEOUT, minimum=0.05, maximum=60),
            ),
            clock=clock,
        )
        options.finish()
        return adapter

    @stripping
    def fetch(self) -> Credentials:
        """Ask the provider for another token.

        Raises:
            CredentialsUnavailable: the provider is away or overloaded; try again.
            CredentialsDenied: it refuses the client, or what is asked for.
            CredentialsInvalid: its answer holds no token.
        """
        started = self._clock()
        token = self._guarded(self._ask)
        value, life = token.get("access_token"), token.get("expires_in")
        if not isinstance(value, str) or not value:
            raise CredentialsInvalid(f"{self._purpose}: the answer holds no access_token")
        ends = life if isinstance(life, (int, float)) and not isinstance(life, bool) else None
        if ends is not None and ends <= 0:
            raise CredentialsInvalid(f"{self._purpose}: the token has expired already")
        return Credentials(
            user=self._user,
            password=value,
            parameters=self._parameters,
            expires_at=None if ends is None else started + ends,
        )

    @property
    def _provider(self) -> str:
        return str(self._token_url or self._issuer)

    @property
    def _purpose(self) -> str:
        return f"OAuth token of {self._provider}"

    def _ask(self) -> Mapping[str, Any]:
        from oauthlib.oauth2 import BackendApplicationClient

        library = _import_requests_oauthlib()
        secret = self._client_secret.read()
        client = BackendApplicationClient(client_id=self._client_id, scope=self._scope)
        with library.OAuth2Session(client=client) as session:
            url = self._token_url or self._discovered(session)
            more = {"audience": self._audience} if self._audience else {}
            token: Mapping[str, Any] = session.fetch_token(
                token_url=url, client_secret=secret, timeout=self._timeout, **more
            )
            return token

    def _discovered(self, session: Any) -> str:
        """Return the token endpoint that the provider names (OpenID Connect Discovery 1.0, 4)."""
        address = f"{str(self._issuer).rstrip('/')}/.well-known/openid-configuration"
        # Not session.get(), which would want a token for it.
        answer = session.request("GET", address, timeout=self._timeout, withhold_token=True)
        if answer.status_code >= 500 or answer.status_code == 429:
            raise CredentialsUnavailable(f"{self._purpose}: {answer.status_code} of {address}")
        try:
            endpoint = answer.json().get("token_endpoint")
        except (ValueError, AttributeError):
            endpoint = None
        if not isinstance(endpoint, str) or not endpoint.startswith("https://"):
            raise CredentialsInvalid(f"{self._purpose}: {address} names no https token_endpoint")
        return endpoint

    def _guarded(self, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        failure: CredentialsError
        try:
            with unlogged(*_TALKATIVE):
                return ask()
        except CredentialsError:
            raise
        except Exception as error:  # noqa: BLE001 - oauthlib's, requests', or what they let through
            failure = self._explained(error)
        raise failure

    def _explained(self, error: Exception) -> CredentialsError:
        import requests
        from oauthlib.oauth2 import OAuth2Error

        kind: type[CredentialsError] = CredentialsUnavailable
        if isinstance(error, OAuth2Error):
            said = redact(str(error))
            if error.error in _REFUSALS:
                kind, meaning = CredentialsDenied, f"the provider refused ({said})"
            elif error.error in ("server_error", "temporarily_unavailable", "slow_down"):
                meaning = f"the provider cannot answer now ({said})"
            elif error.error == "missing_token":
                meaning = "what answered sent no token, nor a reason"
            else:
                kind, meaning = CredentialsInvalid, f"the provider does not take this ({said})"
        elif isinstance(error, requests.exceptions.ConnectTimeout):
            meaning = f"connecting timed out (CONNECT_TIMEOUT, {self._timeout[0]:g} s)"
        elif isinstance(error, requests.exceptions.Timeout):
            meaning = f"it did not answer in time (TIMEOUT, {self._timeout[1]:g} s)"
        elif isinstance(error, requests.exceptions.SSLError):
            meaning = "TLS failed; REQUESTS_CA_BUNDLE may name the wrong certificates"
        elif isinstance(error, requests.RequestException):
            meaning = f"it cannot be reached ({type(error).__name__})"
        else:
            # It may quote the request.
            meaning = f"the request failed with {type(error).__name__}"
        failure = kind(f"{self._purpose}: {meaning}")
        failure.__cause__ = RuntimeError(type(error).__name__)
        return failure


def _import_requests_oauthlib() -> Any:
    try:
        import requests_oauthlib
    except ImportError as error:
        raise AdapterNotInstalled(
            "adapter 'oauth' needs requests-oauthlib: run pip install 'channels-pg-secrets[oauth]'"
        ) from error
    return requests_oauthlib
