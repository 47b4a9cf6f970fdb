"""``manage.py channels_pg_secrets``."""

from __future__ import annotations

import json
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_pg_secrets.aliases import Aliases, configured_layers, is_ours
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.engines.factory import resolve
from channels_pg_secrets.management.grants import Grants
from pg_secrets.errors import CredentialsError


class Command(BaseCommand):
    """Looks after channel layers on PostgreSQL; nothing here connects to anything yet."""

    help = "Look after channel layers on PostgreSQL."
    # grants is needed while the database cannot be used.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True)
        grants = subcommands.add_parser(
            "grants", help="print the SQL that gives the owner and the runtime role their rights"
        )
        grants.add_argument("--layer", default=DEFAULT_CHANNEL_LAYER, help="alias of the layer")
        grants.add_argument("--json", action="store_true", help="print JSON instead of a script")
        grants.add_argument("--role", default="channels_runtime", help="role that logins belong to")
        grants.add_argument("--owner", help="role that owns the tables (default: assume_role)")
        grants.add_argument("--database", help="database's name (default: NAME)")
        grants.add_argument("--schema", default="public", help="schema that migrate installs into")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand.

        Raises:
            CommandError: the layer is not there, not ours or misconfigured.
        """
        self.grants(**options)

    def grants(self, *, layer: str, **options: Any) -> None:
        """Print the SQL; asks no server."""
        current = _engine(layer).django_backend.settings.current()
        database = options["database"] or current["NAME"]
        if not database:
            raise CommandError("The layer's settings have no NAME: give --database.")
        grants = Grants(
            owner=options["owner"] or current["OPTIONS"].get("assume_role") or "channels_owner",
            role=options["role"],
            database=database,
            schema=options["schema"],
        )
        if options["json"]:
            self.stdout.write(json.dumps({"layer": layer, **grants.as_json()}, indent=2))
        else:
            self.stdout.write(grants.as_sql())


def _engine(layer: str) -> PostgresEngine:
    try:
        configured = configured_layers()
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    if layer not in configured:
        names = ", ".join(sorted(configured)) or "none"
        raise CommandError(f"There is no channel layer {layer!r}. Layers: {names}.")
    if not is_ours(configured[layer]):
        raise CommandError(f"The channel layer {layer!r} is not one of channels_pg_secrets.")
    try:
        engine = resolve(Aliases(configured)[layer]["CONFIG"])
    except (ImproperlyConfigured, CredentialsError) as error:
        raise CommandError(str(error)) from error
    if not isinstance(engine, PostgresEngine):
        raise CommandError(f"The channel layer {layer!r} does not use PostgreSQL.")
    return engine
