"""psycopg: a connection for a moment, and one that is kept."""

import os
import time

import psycopg

from pg_secrets import connect, credential_source, outdated

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


def who(source, **params):
    """Open a connection for one question."""
    with connect(source, **params) as connection:
        return connection.execute("SELECT session_user").fetchone()[0]


class Kept:
    """One connection that is opened again when it was lost, and when its login was replaced."""

    def __init__(self, source, **params):
        self._source, self._params = source, params
        self._connection = None

    def who(self):
        try:
            return self._ask()
        except psycopg.OperationalError:
            if not self._connection or not self._connection.closed:
                raise
            return self._ask()  # the session had ended: once more, as this may be repeated

    def _ask(self):
        if self._connection is not None and outdated(self._connection):
            self._connection.close()
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._source, autocommit=True, **self._params)
        return self._connection.execute("SELECT session_user").fetchone()[0]


if __name__ == "__main__":
    kept = Kept(credential_source(CREDENTIALS))
    while True:
        print(kept.who(), flush=True)
        time.sleep(1)
