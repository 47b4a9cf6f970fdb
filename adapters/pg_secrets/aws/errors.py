"""Which error of the family an error of boto3 is.

Codes: AWS Secrets Manager API Reference, GetSecretValue and Common Errors. The texts of AWS are
shown, redacted: they name ARNs and policies, never values.
"""

from __future__ import annotations

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.redaction import redact

_Meaning = tuple[type[CredentialsError], str]

_NOT_FOUND: _Meaning = (
    CredentialsNotFound,
    "there is no such secret, version or stage; check SECRET and REGION",
)
_REFUSED: _Meaning = (CredentialsDenied, "AWS refused; the identity lacks a policy for this")
_IDENTITY: _Meaning = (CredentialsDenied, "AWS does not take the identity's keys")
_BUSY: _Meaning = (CredentialsUnavailable, "AWS cannot answer now")

_CODES: dict[str, _Meaning] = {
    "ResourceNotFoundException": _NOT_FOUND,
    "InvalidRequestException": (
        CredentialsNotFound,
        "the secret is scheduled for deletion, or has no value in this stage",
    ),
    "InvalidParameterException": (CredentialsInvalid, "AWS does not take the request"),
    "ValidationException": (CredentialsInvalid, "AWS does not take the request"),
    "DecryptionFailure": (CredentialsDenied, "the KMS key cannot be used; check its policy"),
    "AccessDeniedException": _REFUSED,
    "AccessDenied": _REFUSED,
    "UnrecognizedClientException": _IDENTITY,
    "InvalidClientTokenId": _IDENTITY,
    "InvalidSignatureException": (CredentialsDenied, "the signature is wrong; check the clock"),
    "SignatureDoesNotMatch": (CredentialsDenied, "the signature is wrong; check the clock"),
    "RequestExpired": (CredentialsDenied, "the request is too old; check the clock"),
    "IncompleteSignature": _IDENTITY,
    "MissingAuthenticationToken": _IDENTITY,
    "OptInRequired": _IDENTITY,
    "ExpiredTokenException": (CredentialsDenied, "the identity's session token has expired"),
    "ExpiredToken": (CredentialsDenied, "the identity's session token has expired"),
    "InternalServiceError": _BUSY,
    "InternalFailure": _BUSY,
    "ServiceUnavailable": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "SlowDown": _BUSY,
}


def explained(error: Exception, purpose: str, timeouts: tuple[float, float]) -> CredentialsError:
    """Return the error of the family; ``purpose`` says what was asked for.

    Its cause is a new one with nothing but the text: boto3's carry the request and its signature.
    """
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        text = redact(str(error.response.get("Error", {}).get("Message", "")))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind, meaning = _of_answer(code, status)
        words = ": ".join(filter(None, (code, text)))
        return _chained(kind(f"{purpose}: {meaning} ({words})"), code)
    kind, meaning = _of_transport(error, timeouts)
    return _chained(kind(f"{purpose}: {meaning}"), type(error).__name__)


def _of_answer(code: str, status: int) -> _Meaning:
    if code in _CODES:
        return _CODES[code]
    if "Throttl" in code or "TooManyRequests" in code or status == 429 or status >= 500:
        return _BUSY
    if status in (401, 403):
        return _REFUSED
    return CredentialsInvalid, "AWS does not take the request"


def _of_transport(error: Exception, timeouts: tuple[float, float]) -> _Meaning:
    from botocore import exceptions

    said = redact(str(error))
    if isinstance(error, exceptions.NoRegionError):
        return AdapterMisconfigured, "no region is set; give REGION, or set AWS_REGION"
    if isinstance(error, (exceptions.ProfileNotFound, exceptions.InvalidRegionError)):
        return AdapterMisconfigured, f"check PROFILE and REGION ({said})"
    if isinstance(error, exceptions.ConnectTimeoutError):
        return CredentialsUnavailable, f"connecting timed out (CONNECT_TIMEOUT, {timeouts[0]:g} s)"
    if isinstance(error, exceptions.ReadTimeoutError):
        return (
            CredentialsUnavailable,
            f"it took the request and did not answer in time (TIMEOUT, {timeouts[1]:g} s)",
        )
    if isinstance(error, exceptions.SSLError):
        return CredentialsUnavailable, f"TLS failed; AWS_CA_BUNDLE may be wrong ({said})"
    denied = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.UnauthorizedSSOTokenError,
        exceptions.SSOTokenLoadError,
    )
    if isinstance(error, denied):
        return CredentialsDenied, f"no identity to ask with ({said})"
    if isinstance(error, exceptions.ParamValidationError):
        return CredentialsInvalid, "AWS does not take the request; check SECRET and VERSION_ID"
    if isinstance(error, exceptions.BotoCoreError):
        # Also CredentialRetrievalError: the metadata service may be back in a moment.
        return CredentialsUnavailable, f"AWS cannot be reached ({said})"
    # What is no error of boto3's may quote anything.
    return CredentialsUnavailable, f"the request failed with {type(error).__name__}"


def _chained(failure: CredentialsError, text: str) -> CredentialsError:
    failure.__cause__ = RuntimeError(text)
    return failure
