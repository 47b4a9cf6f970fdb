"""Celery: tasks that log in, and results that are kept in PostgreSQL."""

import os
import time

from celery import Celery
from sqlalchemy.pool import NullPool

from pg_secrets import connect, credential_source

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}

# Nothing is fetched here. After a fork each worker process fetches for itself.
source = credential_source(CREDENTIALS)

app = Celery(
    "shop",
    broker=os.environ.get("BROKER", "redis://localhost"),
    backend="db+postgresql+psycopg://",
)
app.conf.database_engine_options = {
    "creator": lambda: connect(source),
    # A result is one short transaction: a connection for each needs no looking after.
    "poolclass": NullPool,
}


@app.task(name="who")
def who():
    with connect(source) as connection:
        return connection.execute("SELECT session_user").fetchone()[0]


if __name__ == "__main__":
    while True:
        print(who.delay().get(timeout=30), flush=True)
        time.sleep(1)
