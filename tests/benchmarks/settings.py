"""Django's settings for the benchmarks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.core.management import call_command

if TYPE_CHECKING:
    from pg_secrets.testing.postgres import PostgresServer


def configure(place: dict[str, Any]) -> None:
    """Set Django up; without a database for those who never ask it for one."""
    alias = {"ENGINE": "django.db.backends.postgresql", **place} if place else {}
    apps = ["channels", "channels_pg_secrets"]
    if find_spec("channels_postgres"):
        apps.append("channels_postgres")
    settings.configure(
        INSTALLED_APPS=apps,
        # channels_postgres looks its groups up through an alias of its own name.
        DATABASES={"default": alias, "channels_postgres": alias} if alias else {},
        LOGGING_CONFIG=None,
    )
    django.setup()


def database(server: PostgresServer, name: str = "postgres") -> dict[str, Any]:
    """Return the settings of a database of a server, as its superuser."""
    return {
        "NAME": name,
        "HOST": server.host,
        "PORT": server.port,
        "USER": server.superuser,
        "PASSWORD": server.password,
    }


def migrate() -> None:
    """Create the tables of both PostgreSQL layers."""
    from django.db import connections

    call_command("migrate", verbosity=0)
    connections.close_all()
