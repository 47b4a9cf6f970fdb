"""Tokens that say which service account of Google's we are, for somebody else to check."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pg_secrets.errors import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.gcp.errors import explained
from pg_secrets.redaction import redact
from pg_secrets.unlogged import unlogged

if TYPE_CHECKING:
    import requests

#: What Google's credentials send requests with.
Request = Callable[..., Any]

#: Where service accounts sign for others, unless it is told otherwise.
IAM_CREDENTIALS = "https://iamcredentials.googleapis.com"
#: Seconds that a token signed here is good for; Vault takes none that lasts over 15 minutes.
LIFETIME = 600.0
SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
#: The logger that shows answers at DEBUG, and with them tokens.
_TALKATIVE = "google.auth.transport.requests"


class GcpIdentity(ABC):
    """One way to a token. Sends nothing before it is asked to; keeps nothing."""

    def __init__(self, timeout: float) -> None:
        import_google_auth()
        self.timeout = timeout

    def token(self, audience: str, purpose: str) -> str:
        """Return a new token for ``audience``; ``purpose`` is what an error calls it.

        Raises:
            CredentialsError: whatever Google's packages raise, as one of the family.
        """
        import requests

        failure: CredentialsError
        try:
            with unlogged(_TALKATIVE), requests.Session() as session:
                return self._token(audience, purpose, _impatient(session, purpose, self.timeout))
        except CredentialsError:
            raise
        except Exception as error:  # noqa: BLE001 - Google's own, or what they let through
            failure = explained(error, purpose, self.timeout)
        raise failure

    @abstractmethod
    def _token(self, audience: str, purpose: str, request: Request) -> str:
        """Do it, sending what has to be sent by ``request``."""


class MachineIdentity(GcpIdentity):
    """The machine's own: its metadata server signs, and says of which instance it is."""

    def _token(self, audience: str, purpose: str, request: Request) -> str:
        from google.auth.compute_engine import IDTokenCredentials

        credentials = IDTokenCredentials(
            request, target_audience=audience, use_metadata_identity_endpoint=True
        )
        credentials.refresh(request)
        return str(credentials.token)


class ServiceAccountIdentity(GcpIdentity):
    """A service account's: signed here with its key, or else by Google's IAM on our behalf.

    ``file`` is a key's, ``None`` for Application Default Credentials. ``account`` is the e-mail
    address of the account, by default the credentials' own.
    """

    def __init__(
        self,
        file: Path | None,
        account: str | None,
        *,
        endpoint: str = IAM_CREDENTIALS,
        timeout: float,
    ) -> None:
        super().__init__(timeout)
        self._file = file
        self._account = account
        self._endpoint = endpoint

    def _token(self, audience: str, purpose: str, request: Request) -> str:
        from google.auth import jwt
        from google.oauth2 import service_account

        credentials = self._credentials(purpose)
        account = self._account or _account(credentials, purpose, request)
        claims = {"sub": account, "aud": audience, "exp": int(time.time() + LIFETIME)}
        has_key = isinstance(credentials, service_account.Credentials)
        if has_key and credentials.service_account_email == account:
            return str(jwt.encode(credentials.signer, claims).decode())
        with _authorized(credentials, request) as session:
            return self._signed_by_google(session, account, claims, purpose)

    def _credentials(self, purpose: str) -> Any:
        import google.auth

        if self._file is None:
            return google.auth.default(scopes=SCOPES)[0]
        return service_account_key(str(self._file), f"{purpose}, option CREDENTIALS_FILE")

    def _signed_by_google(
        self, session: Any, account: str, claims: dict[str, Any], purpose: str
    ) -> str:
        import requests

        url = f"{self._endpoint}/v1/projects/-/serviceAccounts/{account}:signJwt"
        payload = {"payload": json.dumps(claims)}
        try:
            answer = session.post(
                url, json=payload, timeout=self.timeout, max_allowed_time=self.timeout
            )
        except requests.RequestException as error:
            text = type(error).__name__  # the exception carries the request, and its token
        else:
            return _signed(answer, purpose)
        raise CredentialsUnavailable(f"{purpose}: Google's IAM cannot be reached ({text})")


def service_account_key(path: str, option: str) -> Any:
    """Return the credentials in a service account's key file; ``option`` is what named it.

    Raises:
        AdapterMisconfigured: it cannot be read, or is no such file.
    """
    from google.oauth2 import service_account

    try:
        return service_account.Credentials.from_service_account_file(path, scopes=SCOPES)
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError:
        why = "it is no service account's key"  # the error may quote the file
    raise AdapterMisconfigured(f"{option}: {path}: {why}")


def import_google_auth() -> None:
    """Raise AdapterNotInstalled where google-auth is not installed, or what it sends with."""
    try:
        import google.api_core
        import google.auth.transport.requests  # noqa: F401 - needed later, said now
    except ImportError as error:
        raise AdapterNotInstalled(
            "Vault's GCP login needs google-auth: run pip install 'channels-pg-secrets[gcp]'"
        ) from error


def _authorized(credentials: Any, request: Request) -> Any:
    from google.auth.transport.requests import AuthorizedSession

    return AuthorizedSession(credentials, auth_request=request)


def _account(credentials: Any, purpose: str, request: Request) -> str:
    """Return the e-mail address of the account that the credentials are of."""
    account = getattr(credentials, "service_account_email", None)
    if account == "default":
        # A machine's credentials know whose they are after their first token.
        credentials.refresh(request)
        account = credentials.service_account_email
    if not isinstance(account, str) or "@" not in account:
        raise AdapterMisconfigured(
            f"{purpose}: the default credentials are no service account's; give SERVICE_ACCOUNT"
        )
    return account


def _signed(answer: Any, purpose: str) -> str:
    try:
        body = answer.json()
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    if answer.status_code == 200:
        token = body.get("signedJwt")
        if not isinstance(token, str) or not token:
            raise CredentialsInvalid(f"{purpose}: Google's IAM answered without a signedJwt")
        return token
    error = body.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    words = redact(": ".join(filter(None, [str(answer.status_code), said and str(said)])))
    if answer.status_code == 429 or answer.status_code >= 500:
        raise CredentialsUnavailable(f"{purpose}: Google's IAM cannot answer now ({words})")
    raise CredentialsDenied(
        f"{purpose}: Google's IAM does not sign for us; the identity needs"
        f" iam.serviceAccounts.signJwt on the account ({words})"
    )


def _impatient(session: requests.Session, purpose: str, timeout: float) -> Request:
    """Return what Google's credentials send requests with, which does not try again.

    Theirs go on for half a minute; here the source decides when to try again.
    """
    from google.auth import exceptions
    from google.auth.transport import requests as transport

    send = transport.Request(session)

    def request(url: str, **options: Any) -> Any:
        try:
            answer = send(url, **{**options, "timeout": timeout})
        except exceptions.TransportError as error:
            failure = explained(error, purpose, timeout)
        else:
            if answer.status != 429 and answer.status < 500:
                return answer
            failure = CredentialsUnavailable(
                f"{purpose}: Google's metadata server cannot answer now ({answer.status})"
            )
        raise failure

    return request
