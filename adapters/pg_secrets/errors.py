"""The one family of errors that leaves this package.

Every foreign error (hvac, requests, OSError…) is mapped to one of these at the adapter's boundary,
with its cause chained and its text stripped of secrets.
"""

from __future__ import annotations


class CredentialsError(Exception):
    """Database credentials could not be had."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])


class CredentialsUnavailable(CredentialsError, ConnectionError):
    """The store did not answer; trying again later may help."""


class CredentialsDenied(CredentialsError, PermissionError):
    """The store refused this identity; a person has to mend a policy or a login."""


class CredentialsNotFound(CredentialsError, LookupError):
    """The store answered that there is no such secret."""


class CredentialsInvalid(CredentialsError, ValueError):
    """The store answered with something that is not a usable credential."""


class AdapterNotInstalled(CredentialsError, ImportError):
    """The adapter's package is missing; the message names the pip command."""


class AdapterMisconfigured(CredentialsError, ValueError):
    """An adapter's settings are wrong; the message names the key, what was found and expected."""
