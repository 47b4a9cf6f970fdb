"""A process that logs in, forks, and lets child and parent log in anew.

It reads from standard input where the credentials are, and which database to log in to, if any.
Each login prints a line: the session's user, and how often this process's source has fetched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from pg_secrets import CredentialSource, connect
from pg_secrets.registry import credential_adapter
from pg_secrets.testing.clock import FakeClock


def log_in(source: CredentialSource, where: dict[str, Any] | None) -> None:
    """Log in, or where no database takes this login, have it; print who that was."""
    user = source.get().user
    if where is not None:
        with connect(source, **where) as connection:
            (user,) = connection.execute("SELECT session_user").fetchone() or (None,)
    print(json.dumps({"user": user, "fetches": source.stats()["fetches"]}), flush=True)


def main() -> None:
    """Log in, fork, refresh and log in on both sides."""
    signal.alarm(30)
    given = json.load(sys.stdin)
    # On this clock the second between two fetches takes no time.
    source = CredentialSource(
        credential_adapter(given["config"]), background=False, clock=FakeClock(autojump=True)
    )
    log_in(source, given["where"])
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        status = 1
        try:
            source.refresh()
            log_in(source, given["where"])
            source.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    source.refresh()
    log_in(source, given["where"])
    source.close()


if __name__ == "__main__":
    main()
