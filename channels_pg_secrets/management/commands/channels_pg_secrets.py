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
from channels_pg_secrets.management.report import report
from pg_secrets.errors import CredentialsError


class Command(BaseCommand):
    """Looks after channel layers on PostgreSQL."""

    help = "Look after channel layers on PostgreSQL."
    # grants is needed while the database cannot be used.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True)
        check = subcommands.add_parser(
            "check",
            help="fetch credentials, log in, and look whether the layer can work",
            description="Fetches a layer's credentials, logs in with them, looks for the functions"
            " and rights that it needs, and whether its listening connection hears. Each finding"
            " comes with what mends it. Exits with 1 if there is any.",
        )
        check.add_argument("--layer", default=DEFAULT_CHANNEL_LAYER, help="alias of the layer")
        check.add_argument("--json", action="store_true", help="print JSON")
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
            SystemExit: ``check`` has findings.
        """
        {"check": self.check_layer, "grants": self.grants}[options["subcommand"]](**options)

    def check_layer(self, *, layer: str, **options: Any) -> None:
        """Connect as the layer does, and print what is wrong; ends with 1 if anything is."""
        found = report(_engine(layer), layer)
        if options["json"]:
            self.stdout.write(json.dumps(found.as_json(), indent=2))
        else:
            self.stdout.write(found.as_text())
        if not found.ready:
            raise SystemExit(1)

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
