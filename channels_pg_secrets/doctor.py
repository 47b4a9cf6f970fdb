"""The ``doctor`` command: ``check`` without a Django project."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_pg_secrets.engines import PostgresEngine

DESCRIPTION = """\
Looks whether a login from a secret store works, step by step: fetches it, logs in, finds out
whether a pooler such as PgBouncer stands in between and in which mode, looks for the rights that a
channel layer needs, and sends one notification to a connection that listens. Each finding comes
with the setting, the SQL or the policy line that mends it. Prints no secret.
"""
EPILOG = """\
examples:
  channels-pg-secrets doctor --name app --host db.example \\
      --adapter vault --option ADDRESS=https://vault.example:8200 --option ROLE=app
  channels-pg-secrets doctor --config layer.json
      what stands in CONFIG, as JSON ("-": from standard input)
  channels-pg-secrets doctor --login-only --config database.json --json
      a database that no channel layer uses

exit codes: 0 all is well, 1 there is a finding, 2 the settings cannot work
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor`` to the commands of ``channels-pg-secrets``."""
    parser = commands.add_parser(
        "doctor",
        help="look whether a login from a secret store works, and what mends it",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="CONFIG of a layer, as JSON (-: stdin)")
    parser.add_argument("--name", help="the database's name")
    parser.add_argument("--host", help="where the server is")
    parser.add_argument("--port", help="its port")
    parser.add_argument("--user", help="who logs in, where the store does not say it")
    parser.add_argument("--adapter", metavar="NAME", help="vault, aws, gcp, files, env …")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="an option of the adapter; VALUE may be JSON; may be given several times",
    )
    parser.add_argument(
        "--login-only", action="store_true", help="do not look for a channel layer's functions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the examination and return the exit code."""
    from django.core.exceptions import ImproperlyConfigured

    from pg_secrets.errors import CredentialsError

    try:
        engine = _engine(_config(arguments))
    except (ImproperlyConfigured, CredentialsError, OSError, ValueError) as error:
        print(f"channels-pg-secrets doctor: {error}", file=sys.stderr)
        return 2
    from channels_pg_secrets.management.report import report

    found = report(engine, None, rights=not arguments.login_only)
    print(json.dumps(found.as_json(), indent=2) if arguments.json else found.as_text(), end="")
    if arguments.json:
        print()
    return 0 if found.ready else 1


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return ``CONFIG`` from a file, with what else is given laid over it."""
    config: dict[str, Any] = {}
    if arguments.config is not None:
        text = sys.stdin.read() if arguments.config == "-" else Path(arguments.config).read_text()
        try:
            loaded = json.loads(text)
        except ValueError as error:
            # Not the parser's own text as the cause: it would carry the whole file.
            raise ValueError(f"--config {arguments.config}: no JSON ({error})") from None
        if not isinstance(loaded, dict):
            raise ValueError(f"--config {arguments.config}: expected a JSON object")
        config.update(loaded)
    for key in ("name", "host", "port", "user"):
        if getattr(arguments, key) is not None:
            config[key.upper()] = getattr(arguments, key)
    if arguments.adapter is not None:
        config["CREDENTIALS"] = {"ADAPTER": arguments.adapter, **dict(arguments.option)}
    elif arguments.option:
        raise ValueError("--option goes with --adapter")
    return config


def _engine(config: dict[str, Any]) -> PostgresEngine:
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from channels_pg_secrets.engines import PostgresEngine
    from channels_pg_secrets.engines.factory import resolve

    engine = resolve(config)
    if not isinstance(engine, PostgresEngine):
        raise ValueError(f"ENGINE {config.get('ENGINE')!r} does not use PostgreSQL")
    return engine


def _option(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found or key != key.upper():
        raise argparse.ArgumentTypeError("expected KEY=VALUE, with KEY in capitals")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
