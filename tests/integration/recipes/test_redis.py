"""redis-py's clients whose logins come from a source, on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from pg_secrets import Credentials, CredentialSource
from pg_secrets.redis import SourceCredentialProvider
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.canary import Hunt
from pg_secrets.testing.process import ServerNotStarted
from pg_secrets.testing.redis import RedisServer
from tests.integration.recipes.conftest import Ask, load, looping

RULES = ("+@all", "~*")
#: Whether redis-py, too, tries a login again that was refused.
TRIES_AGAIN = tuple(map(int, redis.__version__.split(".")[:2])) >= (7, 2)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A running Redis with a user ``first``."""
    try:
        running = RedisServer()
    except ServerNotStarted as error:
        pytest.skip(str(error))
    with running:
        running.set_user("first", "secret", *RULES)
        yield running


@pytest.fixture
def store() -> ScriptedAdapter:
    return ScriptedAdapter(Credentials(user="first", password="secret"))


@pytest.fixture
def source(store: ScriptedAdapter) -> Iterator[CredentialSource]:
    made = CredentialSource(store)
    yield made
    made.close()


def synchronous(source: CredentialSource, stack: ExitStack, **options: Any) -> Ask:
    client = stack.enter_context(load("with_redis").make_client(source, **options))
    return lambda: str(client.acl_whoami())


def asynchronous(source: CredentialSource, stack: ExitStack, **options: Any) -> Ask:
    run = stack.enter_context(looping())
    client = load("with_redis").make_async_client(source, **options)
    stack.callback(lambda: run(client.aclose()))

    async def ask() -> str:
        return str(await client.acl_whoami())

    return lambda: str(run(ask()))


@pytest.fixture(params=[synchronous, asynchronous])
def ask(
    request: pytest.FixtureRequest, source: CredentialSource, server: RedisServer
) -> Iterator[Ask]:
    """Ask Redis through the recipe who is logged in."""
    with ExitStack() as stack:
        where = {"host": server.host, "port": server.port, "decode_responses": True}
        yield request.param(source, stack, **where)


def answer_after_a_refusal(ask: Ask) -> str:
    """Ask until the next login is used: at once, or with an older redis-py the second time."""
    if not TRIES_AGAIN:
        with pytest.raises(AuthenticationError):
            ask()
    return ask()


def test_user_that_is_deleted_after_the_rotation_is_replaced(
    ask: Ask, source: CredentialSource, store: ScriptedAdapter, server: RedisServer
) -> None:
    """Redis ends the old user's sessions, and the next command is carried out as the new one."""
    assert ask() == "first"
    server.set_user("second", "another", *RULES)
    store.then(Credentials(user="second", password="another"))
    source.refresh()
    assert ask() == "first"
    server.delete_user("first")
    assert ask() == "second"
    assert server.refusals() == 0


def test_user_that_is_deleted_at_once_is_replaced(
    ask: Ask, source: CredentialSource, store: ScriptedAdapter, server: RedisServer
) -> None:
    """A login that is refused is fetched again, and the next try succeeds."""
    assert ask() == "first"
    server.set_user("second", "another", *RULES)
    store.then(Credentials(user="second", password="another"))
    server.delete_user("first")
    assert answer_after_a_refusal(ask) == "second"
    assert source.stats()["rejections"] == server.refusals() == 1


def test_password_that_was_changed_is_fetched(
    ask: Ask, source: CredentialSource, store: ScriptedAdapter, server: RedisServer
) -> None:
    """A new connection of the same user logs in with the password of the moment."""
    source.get()
    server.set_user("first", "another", *RULES)
    store.then(Credentials(user="first", password="another"))
    assert answer_after_a_refusal(ask) == "first"
    assert source.generation == 2


def test_login_that_is_refused_is_not_tried_all_the_time(
    source: CredentialSource, server: RedisServer
) -> None:
    """While the store has nothing else, commands fail, and Redis is not asked each time."""
    server.set_user("first", "another", *RULES)
    where = {"host": server.host, "port": server.port, "retry": Retry(NoBackoff(), 0)}
    with load("with_redis").make_client(source, **where) as client:
        for _ in range(10):
            with pytest.raises(AuthenticationError):
                client.ping()
    assert 1 <= server.refusals() < 10


async def test_login_without_a_user_is_the_default_users(server: RedisServer) -> None:
    """A store that has a password alone serves the default user, and a user may be named."""
    for password, user, expected in (
        (server.password, None, "default"),
        ("secret", "first", "first"),
    ):
        source = CredentialSource(ScriptedAdapter(Credentials(password=password)))
        provider = SourceCredentialProvider(source, user=user)
        assert provider.get_credentials() == await provider.get_credentials_async()
        client = redis.Redis(server.host, server.port, credential_provider=provider)
        assert client.acl_whoami() in (expected, expected.encode())
        client.close()
        source.close()


@pytest.mark.usefixtures("in_no_log")
def test_a_refusal_shows_nothing(hunt: Hunt, server: RedisServer) -> None:
    """Neither the provider nor the error of a refused login has the password."""
    source = CredentialSource(ScriptedAdapter(Credentials(user="x", password=hunt.password())))
    recipe = load("with_redis")
    client = recipe.make_client(
        source, host=server.host, port=server.port, retry=Retry(NoBackoff(), 0)
    )
    for _ in range(2):
        with pytest.raises(AuthenticationError) as caught:
            client.ping()
        hunt.in_exception(caught.value)
    hunt.in_object(client)
    hunt.in_object(SourceCredentialProvider(source))
    client.close()
    source.close()
