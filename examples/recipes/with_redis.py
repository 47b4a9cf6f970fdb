"""redis-py: a client whose new connections log in with the credentials of the moment."""

import os
import time

import redis
import redis.asyncio

from pg_secrets import credential_source
from pg_secrets.redis import SourceCredentialProvider

CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": os.environ.get("LOGIN", "/etc/redis-login")}


def make_client(source, **options):
    provider = SourceCredentialProvider(source)
    return redis.Redis(credential_provider=provider, redis_connect_func=provider.log_in, **options)


def make_async_client(source, **options):
    provider = SourceCredentialProvider(source)
    return redis.asyncio.Redis(
        credential_provider=provider, redis_connect_func=provider.log_in_async, **options
    )


if __name__ == "__main__":
    host, port = os.environ.get("REDIS_HOST", "localhost"), os.environ.get("REDIS_PORT", "6379")
    client = make_client(credential_source(CREDENTIALS), host=host, port=int(port))
    while True:
        print(client.acl_whoami(), flush=True)
        time.sleep(1)
