"""asyncpg: a pool whose connections follow the login, its user name included."""

import asyncio
import os
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from pg_secrets import credential_source
from pg_secrets.asyncpg import connect

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/database")}


@asynccontextmanager
async def open_pool(source, *, min_size=1, **options):
    loop = asyncio.get_running_loop()

    def retire(event):  # in whatever thread
        if event.kind == "rotated":
            asyncio.run_coroutine_threadsafe(pool.expire_connections(), loop)

    pool_of = partial(asyncpg.create_pool, connect=partial(connect, source), min_size=min_size)
    async with pool_of(**options) as pool:
        unsubscribe = source.subscribe(retire)
        try:
            yield pool
        finally:
            unsubscribe()


def password_of(source):
    """For ``asyncpg.connect(user="app", password=password_of(source))``: the user stays.

    Nobody tells the source when the server refuses the password. So the store has to know the
    new one before the server does, or the server has to take both for a while.
    """

    async def password():
        return (await source.aget()).password

    return password


async def main():
    async with open_pool(credential_source(CREDENTIALS)) as pool:
        while True:
            print(await pool.fetchval("SELECT session_user"), flush=True)
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
