"""SQLAlchemy's asyncio engine, with psycopg or with asyncpg."""

import asyncio
import os
from functools import partial

from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import create_async_engine

from pg_secrets import aconnect, credential_source, outdated

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


def make_engine(open_connection, url="postgresql+psycopg://", **options):
    """Make an engine around a coroutine function that opens a connection.

    For asyncpg that is ``partial(pg_secrets.asyncpg.connect, source, …)``, and the URL is
    ``postgresql+asyncpg://``. Where to connect to is said to the function: the URL is not used.
    """
    engine = create_async_engine(url, async_creator=open_connection, pool_pre_ping=True, **options)

    @event.listens_for(engine.sync_engine, "checkout")
    def replace_outdated(connection, record, proxy):
        # The pool tries twice at most, so one that it has just opened is good enough.
        if record.info.get("was_used") and outdated(connection.driver_connection):
            raise DisconnectionError("the login was replaced")
        record.info["was_used"] = True

    @event.listens_for(engine.sync_engine, "checkin")
    def close_outdated(connection, record):
        if connection is not None and outdated(connection.driver_connection):
            record.invalidate()

    return engine


async def main():
    engine = make_engine(partial(aconnect, credential_source(CREDENTIALS)))
    while True:
        async with engine.connect() as connection:
            print(await connection.scalar(text("SELECT session_user")), flush=True)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
