"""Database credentials that come from a secret store and stay good: adapters and sources.

Knows neither Django nor Channels, and imports no store's SDK.
"""

from __future__ import annotations

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.connect import LoginRejected, aconnect, connect
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.events import CredentialEvent
from pg_secrets.followers import outdated
from pg_secrets.pool import pool_kwargs
from pg_secrets.registry import credential_source, register_adapter
from pg_secrets.reload_signal import refresh_all, refresh_on_signal
from pg_secrets.source import CredentialSource

__all__ = [
    "AdapterMisconfigured",
    "AdapterNotInstalled",
    "CredentialAdapter",
    "CredentialEvent",
    "CredentialSource",
    "Credentials",
    "CredentialsDenied",
    "CredentialsError",
    "CredentialsInvalid",
    "CredentialsNotFound",
    "CredentialsUnavailable",
    "Lease",
    "LoginRejected",
    "aconnect",
    "connect",
    "credential_source",
    "outdated",
    "pool_kwargs",
    "refresh_all",
    "refresh_on_signal",
    "register_adapter",
]
