"""SQLAlchemy with psycopg: an engine whose connections follow the login."""

import os
import time

from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DisconnectionError

from pg_secrets import connect, credential_source, outdated

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


def make_engine(source, url="postgresql+psycopg://", **options):
    """Make an engine; the URL has no user and no password."""
    engine = create_engine(url, pool_pre_ping=True, **options)

    @event.listens_for(engine, "do_connect")
    def log_in(dialect, record, args, params):
        return connect(source, **params)

    @event.listens_for(engine, "checkout")
    def replace_outdated(connection, record, proxy):
        # The pool tries twice at most, so one that it has just opened is good enough.
        if record.info.get("was_used") and outdated(connection):
            raise DisconnectionError("the login was replaced")
        record.info["was_used"] = True

    @event.listens_for(engine, "checkin")
    def close_outdated(connection, record):
        if connection is not None and outdated(connection):
            record.invalidate()

    return engine


if __name__ == "__main__":
    engine = make_engine(credential_source(CREDENTIALS))
    while True:
        with engine.connect() as connection:
            print(connection.scalar(text("SELECT session_user")), flush=True)
        time.sleep(1)
