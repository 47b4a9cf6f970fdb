"""psycopg: a connection for a moment, and one that is kept."""

import os
import time

from pg_secrets import connect, credential_source, outdated

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


def who(source, **params):
    """Open a connection for one question."""
    with connect(source, **params) as connection:
        return connection.execute("SELECT session_user").fetchone()[0]


class Kept:
    """One connection, which is replaced when it was lost and when its login was replaced.

    Whoever has a session that ends meanwhile gets psycopg's OperationalError.
    """

    def __init__(self, source, **params):
        self._source, self._params = source, params
        self._connection = None

    def get(self):
        old = self._connection
        if old is None or old.closed or outdated(old):
            if old is not None:
                old.close()
            self._connection = connect(self._source, autocommit=True, **self._params)
        return self._connection


if __name__ == "__main__":
    source = credential_source(CREDENTIALS)
    while True:
        print(who(source), flush=True)
        time.sleep(1)
