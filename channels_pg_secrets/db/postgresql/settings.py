"""What an alias of ``DATABASES`` with this backend may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.config import DATABASE_KEYS, ORM_KEYS, check_database_settings, misspelt
from channels_pg_secrets.errors import DatabaseMisconfigured
from pg_secrets.registry import credential_source

if TYPE_CHECKING:
    from pg_secrets.source import CredentialSource

KNOWN_KEYS = DATABASE_KEYS | ORM_KEYS | {"ENGINE", "CREDENTIALS"}


def check_settings(settings: Mapping[str, Any], alias: str) -> None:
    """Refuse settings that cannot work; asks no server and no store.

    Keys that are not known pass, as Django lets them, unless they look like a known one misspelt.

    Raises:
        DatabaseMisconfigured, WrongValue: naming the key.
        CredentialsError: ``CREDENTIALS`` are wrong.
    """
    where = f"DATABASES[{alias!r}]"
    for key in settings:
        close = misspelt(str(key), KNOWN_KEYS) if key not in KNOWN_KEYS else None
        if close:
            raise DatabaseMisconfigured(
                f"{where} key {str(key)[:50]!r} is not known.", hint=f"Did you mean {close!r}?"
            )
    check_database_settings(settings, where)
    if source_of(settings, alias) is not None:
        refuse_pool(settings, alias)


def refuse_pool(settings: Mapping[str, Any], alias: str) -> None:
    """Refuse Django's own pool.

    Raises:
        DatabaseMisconfigured: ``OPTIONS`` ask for one.
    """
    if settings["OPTIONS"].get("pool"):
        raise DatabaseMisconfigured(
            f"DATABASES[{alias!r}] has OPTIONS['pool']: Django's pool keeps the first credentials"
            " for ever, so it cannot go with CREDENTIALS.",
            hint="Leave the pool out, and keep connections open with CONN_MAX_AGE.",
        )


def source_of(settings: Mapping[str, Any], alias: str) -> CredentialSource | None:
    """Return the source that ``CREDENTIALS`` name; ``None`` where they are explicitly ``None``.

    Raises:
        DatabaseMisconfigured: the key is missing.
        CredentialsError: its value is wrong.
    """
    if "CREDENTIALS" not in settings:
        raise DatabaseMisconfigured(
            f"DATABASES[{alias!r}] has no CREDENTIALS, which its ENGINE is for.",
            hint="Add them, for instance \"env\" or {'ADAPTER': 'vault', …}; for a fixed USER and"
            " PASSWORD use 'django.db.backends.postgresql'.",
        )
    credentials = settings["CREDENTIALS"]
    return None if credentials is None else credential_source(credentials)
