"""``manage.py channels_pg_secrets``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.management.drill import FLOW, rehearse
from channels_pg_secrets.management.grants import Grants
from channels_pg_secrets.management.layers import postgres_engine
from channels_pg_secrets.management.processes import (
    ask_status,
    ask_to_reload,
    describe_reload,
    describe_status,
)
from channels_pg_secrets.management.report import report
from pg_secrets.errors import CredentialsError

_CHECK = (
    "Fetches a layer's credentials, logs in with them, looks whether a pooler stands in between,"
    " for the functions and rights that the layer needs, and whether its listening connection"
    " hears. Each finding comes with what mends it. Exits with 1 if there is any."
)
_STATUS = (
    "Asks every process that uses the layer, through the database, whose login it uses and how"
    " long that lasts, what its connections are and where their parameters came from, and what"
    " happened lately. Prints no secret. Exits with 1 if a process does not answer."
)
_RELOAD = (
    "Has every process that uses the layer fetch its credentials now, as after a rotation that"
    " cannot wait for the TTL. Each moves to new connections if they differ; no message is lost."
    " Exits with 1 if a process does not answer or its store refuses."
)
_DRILL = (
    "Rehearses a rotation: messages flow over connections of the command's own, which then fetch"
    " the credentials afresh and move to new connections. Reports what was lost or came twice, and"
    " how long it took. Running processes take no part. Exits with 1 if anything was lost, came"
    " twice or out of order."
)


class Command(BaseCommand):
    """Looks after channel layers on PostgreSQL."""

    help = "Look after channel layers on PostgreSQL."
    # They are needed while the database cannot be used.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the subcommands."""
        subcommands = parser.add_subparsers(dest="subcommand", required=True)

        def add(name: str, text: str, description: str = "") -> CommandParser:
            added: CommandParser = subcommands.add_parser(
                name, help=text, description=description or None
            )
            added.add_argument(
                "--layer", default=DEFAULT_CHANNEL_LAYER, help="alias of the layer (%(default)s)"
            )
            added.add_argument("--json", action="store_true", help="print JSON")
            return added

        add("check", "fetch credentials, log in, and look whether the layer can work", _CHECK)
        status = add("status", "ask the layer's processes how they are doing", _STATUS)
        reload = add("reload", "have the layer's processes fetch their credentials now", _RELOAD)
        for asking, default in ((status, 5.0), (reload, 15.0)):
            asking.add_argument(
                "--timeout",
                type=_seconds,
                default=default,
                metavar="SECONDS",
                help="how long to wait for answers (%(default)g)",
            )
        drill = add("drill", "rehearse a rotation on connections of its own", _DRILL)
        drill.add_argument(
            "--seconds",
            type=_seconds,
            default=FLOW,
            help="how long messages flow before and after the move (%(default)g)",
        )
        grants = add("grants", "print the SQL that gives the owner and the runtime role rights")
        grants.add_argument("--role", default="channels_runtime", help="role that logins belong to")
        grants.add_argument("--owner", help="role that owns the tables (default: assume_role)")
        grants.add_argument("--database", help="database's name (default: NAME)")
        grants.add_argument("--schema", default="public", help="schema that migrate installs into")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand.

        Raises:
            CommandError: the layer is not there, not ours or misconfigured, or cannot be reached.
            SystemExit: something is wrong, and was printed.
        """
        commands: dict[str, Callable[..., bool]] = {
            "check": self.check_layer,
            "status": self.status,
            "reload": self.reload,
            "drill": self.drill,
            "grants": self.grants,
        }
        try:
            well = commands[options["subcommand"]](**options)
        except (ImproperlyConfigured, CredentialsError) as error:
            raise CommandError(str(error)) from error
        except ChannelLayerUnavailable as error:
            raise CommandError(
                f"{error}. `manage.py channels_pg_secrets check` says what mends it."
            ) from error
        if not well:
            raise SystemExit(1)

    def check_layer(self, *, layer: str, **options: Any) -> bool:
        """Connect as the layer does, and print what is wrong."""
        found = report(postgres_engine(layer), layer)
        self._print(found.as_json() if options["json"] else found.as_text())
        return found.ready

    def status(self, *, layer: str, timeout: float, **options: Any) -> bool:
        """Print what each process says of itself."""
        answers = ask_status(postgres_engine(layer), layer, timeout)
        self._print(answers.as_json() if options["json"] else answers.as_text(describe_status))
        return answers.complete

    def reload(self, *, layer: str, timeout: float, **options: Any) -> bool:
        """Print what came of it in each process."""
        answers = ask_to_reload(postgres_engine(layer), layer, timeout)
        self._print(answers.as_json() if options["json"] else answers.as_text(describe_reload))
        return answers.complete

    def drill(self, *, layer: str, seconds: float, **options: Any) -> bool:
        """Print what came of it."""
        if not options["json"]:
            self.stderr.write(f"Messages flow for {2 * seconds:g} seconds …")
        result = rehearse(postgres_engine(layer), layer, seconds)
        self._print(result.as_json() if options["json"] else result.as_text())
        return result.passed

    def grants(self, *, layer: str, **options: Any) -> bool:
        """Print the SQL; asks no server."""
        current = postgres_engine(layer).django_backend.settings.current()
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
            self._print({"layer": layer, **grants.as_json()})
        else:
            self._print(grants.as_sql())
        return True

    def _print(self, found: dict[str, Any] | str) -> None:
        self.stdout.write(found if isinstance(found, str) else json.dumps(found, indent=2))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0; got {text!r}")
    return value
