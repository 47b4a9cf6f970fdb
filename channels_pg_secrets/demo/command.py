"""The ``demo`` command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import webbrowser
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.demo.errors import DemoError
from channels_pg_secrets.demo.interrupts import Interrupts
from channels_pg_secrets.demo.progress import Progress
from channels_pg_secrets.demo.requirements import check_extras

if TYPE_CHECKING:
    from channels_pg_secrets.demo.launcher import Demo

DESCRIPTION = """\
Runs a chat whose database logins expire while people talk.

It starts a PostgreSQL and a secret store of its own, lets the store hand out database logins that
end after a short while (with their sessions), and runs a Django/Channels chat in two server
processes on one port. Open the page in several windows: it shows which database user is in use,
when the next rotation comes, and that no message gets lost. Nothing is installed outside this
Python environment, and Ctrl-C removes all of it.
"""
EPILOG = """\
examples:
  channels-pg-secrets demo
      a chat at http://127.0.0.1:8000/, credentials from Vault (OpenBao), rotated every 30 s
  channels-pg-secrets demo --adapter files --rotate-every 10
      the same with a secret mounted as in Kubernetes, and no Vault
  channels-pg-secrets demo --check 20 --rotate-every 4
      no browser: real WebSocket clients talk for 20 s; prints one JSON line and exits with 0
      only if nothing was lost or repeated

exit codes: 0 all is well, 1 messages were lost, repeated or refused, 2 the demo could not run
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the commands of ``channels-pg-secrets``."""
    parser = commands.add_parser(
        "demo",
        help="run a chat whose database logins expire while people talk",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--adapter",
        choices=("vault", "aws", "gcp", "files", "env", "command"),
        default="vault",
        help="where the credentials come from: leases of a Vault, a cloud's secret manager (a"
        " local server that speaks its protocol), a mounted secret, files that variables name, or"
        " a program (default: vault)",
    )
    parser.add_argument(
        "--port", type=_port, default=8000, help="where the page is served (default: 8000)"
    )
    parser.add_argument(
        "--rotate-every",
        type=_seconds,
        metavar="SECONDS",
        help="time from one set of credentials to the next, at least 1 (default: 30, or a fifth"
        " of --check)",
    )
    parser.add_argument(
        "--check",
        type=_seconds,
        metavar="SECONDS",
        help="let clients talk for so long instead of opening the page, and print a JSON line",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address instead of opening it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return the exit code."""
    try:
        check_extras(arguments.adapter)
        with Interrupts() as interrupts:
            return _run(arguments, interrupts)
    except DemoError as error:
        print(f"channels-pg-secrets demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, interrupts: Interrupts) -> int:
    from channels_pg_secrets.demo.launcher import Demo
    from pg_secrets.testing.process import forget_client_settings

    forget_client_settings()
    progress = Progress(interrupts)
    demo = Demo(
        adapter=arguments.adapter,
        port=arguments.port,
        rotate_every=_period(arguments),
        interrupts=interrupts,
        progress=progress,
    )
    with demo:
        if arguments.check is None:
            return _serve(demo, progress, browser=not arguments.no_browser)
        with interrupts.allowed():
            result = _check(demo, arguments.check, progress)
        demo.wait(0)
    # Printed last, so that a reader of standard output knows that the servers are gone.
    print(json.dumps(result), flush=True)
    return _verdict(result, demo.rotate_every, progress)


def _serve(demo: Demo, progress: Progress, *, browser: bool) -> int:
    """Leave the page open until Ctrl-C, which is the ordinary end."""
    progress.say(f"\nThe chat is at {demo.url} - open it in several windows. Ctrl-C ends it.")
    if browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(demo.url)
    try:
        while True:
            demo.wait(1.0)
    except KeyboardInterrupt:
        return 0


def _check(demo: Demo, seconds: float, progress: Progress) -> dict[str, Any]:
    """Let clients talk, and return what came of it."""
    from channels_pg_secrets.demo.check import Check

    with progress.step(f"Letting clients talk for {seconds:g} s"):
        check = Check(demo.host, demo.port, servers=demo.servers, seconds=seconds)
        return {"adapter": demo.adapter, **asyncio.run(check.run())}


def _verdict(result: dict[str, Any], rotate_every: float, progress: Progress) -> int:
    """Return the exit code that a result deserves."""
    if not result["rotations"] and result["seconds"] >= 1.5 * rotate_every:
        progress.say("Not one rotation happened, although there was time for it.")
        return 1
    bad = result["lost"] or result["duplicated"] or result["errors"]
    return 1 if bad or not result["received"] else 0


def _period(arguments: argparse.Namespace) -> float:
    if arguments.rotate_every:
        return float(arguments.rotate_every)
    return max(2.0, arguments.check / 5) if arguments.check else 30.0


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 1 <= float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (1 to 86400)")


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 1 <= int(text) <= 65535:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port number (1 to 65535)")
