"""Which error of the family an error of Google's client is, over gRPC and over REST.

Classes: google.api_core.exceptions, google.auth.exceptions. The texts of Google are shown,
redacted: they name resources and permissions, never values.
"""

from __future__ import annotations

from pg_secrets.errors import (
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.redaction import redact

_Meaning = tuple[type[CredentialsError], str]

#: What the service says of a version that is switched off; over REST only the text tells.
_SWITCHED_OFF = ("DISABLED", "DESTROYED")


def explained(error: Exception, purpose: str, timeout: float) -> CredentialsError:
    """Return the error of the family; ``purpose`` says what was asked for.

    Its cause is a new one with nothing but the class: Google's carry the request and its token.
    """
    kind, meaning = _meaning(error, timeout)
    said = redact(str(getattr(error, "message", None) or error))
    words = f"{type(error).__name__}: {said}" if said else type(error).__name__
    failure = kind(f"{purpose}: {meaning} ({words})")
    failure.__cause__ = RuntimeError(type(error).__name__)
    return failure


def _meaning(error: Exception, timeout: float) -> _Meaning:
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    if isinstance(error, auth.GoogleAuthError):
        return _of_identity(error)
    if isinstance(error, api.NotFound):
        return CredentialsNotFound, "there is no such secret or version; check SECRET and PROJECT"
    off = any(word in str(error) for word in _SWITCHED_OFF)
    if isinstance(error, api.FailedPrecondition) or (isinstance(error, api.BadRequest) and off):
        return CredentialsNotFound, "that version is disabled or destroyed; 'latest' names it still"
    if isinstance(error, (api.Forbidden, api.Unauthorized)):
        return (
            CredentialsDenied,
            "Google refused; the identity lacks roles/secretmanager.secretAccessor",
        )
    if isinstance(error, api.BadRequest):
        return CredentialsInvalid, "Google does not take the request; check SECRET and VERSION"
    if isinstance(error, (api.DeadlineExceeded, api.RetryError)):
        return CredentialsUnavailable, f"no answer in time (TIMEOUT, {timeout:g} s)"
    passing = (api.TooManyRequests, api.Conflict, api.Cancelled)  # another try may mend these
    if isinstance(error, api.ClientError) and not isinstance(error, passing):
        return CredentialsInvalid, "Google does not take the request"
    # Also what is no error of Google's: requests' own, over REST.
    return CredentialsUnavailable, "Google cannot answer now"


def _of_identity(error: Exception) -> _Meaning:
    from google.auth import exceptions as auth

    if isinstance(error, auth.TransportError) or getattr(error, "retryable", False):
        return CredentialsUnavailable, "the identity's token cannot be had now"
    return CredentialsDenied, "no identity to ask with"
