"""What mends an error that kept a layer from working: the setting, the SQL or the policy line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from channels_pg_secrets.failures import failure
from pg_secrets.connect import LoginRejected
from pg_secrets.errors import CredentialsDenied, CredentialsError, CredentialsUnavailable

if TYPE_CHECKING:
    from channels_pg_secrets.engines import PostgresEngine


def warning(number: str, text: str, *, hint: str) -> checks.Warning:
    """Return one of the warnings of docs/reference/errors.md."""
    return checks.Warning(text, hint=hint, id=f"channels_pg_secrets.{number}")


def explained(engine: PostgresEngine, error: Exception, prefix: str = "") -> checks.Warning:
    """Return the warning for an error that came up while a layer's connection was opened."""
    number, hint = _number_and_hint(engine, error)
    if number == "W018":
        return warning(number, f"{prefix}The engine failed with {failure(error)}.", hint=hint)
    text = getattr(error, "message", "") or f"{type(error).__name__}: {str(error).strip()}"
    return warning(number, prefix + text, hint=hint)


def quoted(name: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def _number_and_hint(engine: PostgresEngine, error: Exception) -> tuple[str, str]:
    if isinstance(error, ImproperlyConfigured):
        return "W017", getattr(error, "hint", "") or "See the settings reference."
    if isinstance(error, LoginRejected):
        return "W012", _about_a_refused_login(engine)
    if isinstance(error, psycopg.Error):
        return _about_the_server(engine, error)
    if isinstance(error, CredentialsUnavailable):
        return "W014", "Check the store's address and that it is up and can be reached from here."
    if isinstance(error, CredentialsDenied):
        return "W015", _about_a_refusing_store(engine)
    if isinstance(error, CredentialsError):
        return "W016", "Check CREDENTIALS against what the store holds."
    return "W018", "Mend connection_params(), connect() or configure(), or the backend it asks."


def _about_a_refused_login(engine: PostgresEngine) -> str:
    hint = (
        "The server refused this user or password: compare USER and PASSWORD, or what CREDENTIALS"
        " give, with the role in the database."
    )
    held = engine.source.current if engine.source is not None else None
    if held is None or held.user is None:
        return hint
    user = quoted(held.user)
    return (
        f"{hint} Where the role is missing: CREATE ROLE {user} LOGIN PASSWORD '...'; where it has"
        f" another password or may not log in: ALTER ROLE {user} LOGIN PASSWORD '...'; or let the"
        " store rotate it."
    )


def _about_a_refusing_store(engine: PostgresEngine) -> str:
    hint = "Check the token or role that CREDENTIALS name, and its policy in the store."
    policy = engine.source.adapter.policy() if engine.source is not None else None
    return hint if policy is None else f"{hint} It has to allow this: {policy}"


def _about_the_server(engine: PostgresEngine, error: psycopg.Error) -> tuple[str, str]:
    state = error.sqlstate
    settings = engine.django_backend.settings.current()
    database = quoted(str(settings["NAME"])) if settings["NAME"] else "..."
    if state == "42501" and "database" in str(error):
        return (
            "W013",
            f"As the database's owner: GRANT CONNECT ON DATABASE {database} TO <the login>;",
        )
    # Permission denied to set a role; no such role, no such time zone.
    if state in ("42501", "22023"):
        return "W017", (
            "Check OPTIONS['assume_role'], a role that this login has to be a member of (GRANT"
            " <the role> TO <the login>;), and TIME_ZONE."
        )
    if state == "3D000":
        return "W013", f"Check NAME; or, as an administrator: CREATE DATABASE {database};"
    if state == "53300":
        return "W013", (
            "The server has no connection left: look for what holds them (SELECT usename, count(*)"
            " FROM pg_stat_activity GROUP BY 1;), or raise max_connections. A process of the layer"
            " needs two, and two more while it moves."
        )
    # libpq looks at its values only when it connects, and gives these errors no code.
    if isinstance(error, psycopg.ProgrammingError) or re.search("invalid .* value", str(error)):
        return "W017", "Check OPTIONS: libpq takes no such value."
    return "W013", "Check HOST, PORT, NAME and that the server takes connections from here."
