"""psycopg_pool: connections with the old login are closed when there is a new one."""

import asyncio
import os
import time
from contextlib import asynccontextmanager, contextmanager

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pg_secrets import credential_source, pool_kwargs

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


@contextmanager
def open_pool(source, *, min_size=1, **params):
    kwargs = pool_kwargs(source, **params)
    check = ConnectionPool.check_connection  # nobody is given a session that has ended
    with ConnectionPool(**kwargs, check=check, min_size=min_size, open=True) as pool:
        unsubscribe = source.subscribe(
            lambda event: pool.drain() if event.kind == "rotated" else None
        )
        try:
            yield pool
        finally:
            unsubscribe()


@asynccontextmanager
async def open_async_pool(source, *, min_size=1, **params):
    kwargs, loop = pool_kwargs(source, **params), asyncio.get_running_loop()
    check = AsyncConnectionPool.check_connection

    def retire(event):  # in whatever thread
        if event.kind == "rotated":
            asyncio.run_coroutine_threadsafe(pool.drain(), loop)

    async with AsyncConnectionPool(**kwargs, check=check, min_size=min_size, open=False) as pool:
        unsubscribe = source.subscribe(retire)
        try:
            yield pool
        finally:
            unsubscribe()


if __name__ == "__main__":
    with open_pool(credential_source(CREDENTIALS)) as pool:
        while True:
            with pool.connection() as connection:
                print(connection.execute("SELECT session_user").fetchone()[0], flush=True)
            time.sleep(1)
