"""The ``channels-pg-secrets`` command; the same as ``python -m channels_pg_secrets``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from channels_pg_secrets import __version__
from channels_pg_secrets.demo.command import add_parser as add_demo
from channels_pg_secrets.doctor import add_parser as add_doctor

DESCRIPTION = """\
A Django Channels layer on PostgreSQL whose credentials live in a secret manager and rotate
without losing a message. See it work with: channels-pg-secrets demo
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(prog="channels-pg-secrets", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_demo(commands)
    add_doctor(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = build_parser().parse_args(arguments)
    return int(parsed.run(parsed))


if __name__ == "__main__":
    raise SystemExit(main())
