"""``manage.py check --database``: what a layer's own login finds in the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from channels_pg_secrets import readiness
from channels_pg_secrets.checks import check_tables
from channels_pg_secrets.db.postgresql.base import DatabaseWrapper
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.engines.factory import build_engine
from channels_pg_secrets.management.grants import Grants
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.openbao import OpenBaoServer


def found(config: dict[str, Any], database: str = "default") -> list[checks.CheckMessage]:
    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": config}}):
        return check_tables(databases=[database])


@pytest.fixture
def shop(database: FreshDatabase) -> Iterator[dict[str, Any]]:
    """An alias ``shop`` of DATABASES, logged in as the owner."""
    connections.settings["shop"] = {
        **connections.settings["default"],
        **database.settings(database.owner),
        "OPTIONS": {},
    }
    yield connections.settings["shop"]
    connections["shop"].close()
    del connections["shop"], connections.settings["shop"]


def grants(database: FreshDatabase) -> Grants:
    return Grants(database.owner.user, database.runtime, database.name, "public")


def test_from_nothing_to_ready(database: FreshDatabase, shop: dict[str, Any]) -> None:
    """Missing tables are W010, missing rights W011; migrate and the grants' SQL mend both."""
    config = database.settings(database.login())
    for statement in grants(database).before_migrate():
        database.execute(statement)
    (message,) = found(config)
    assert message.id == "channels_pg_secrets.W010"
    assert "migrate" in str(message.hint)

    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": config}}):
        call_command("migrate", "channels_pg_secrets", database="shop", verbosity=0)
    (message,) = found(config)
    assert message.id == "channels_pg_secrets.W011"
    assert "channels_pg_secrets_publish_v1" in message.msg

    for statement in grants(database).after_migrate():
        database.execute(statement)
    assert found(config) == []


def test_the_grants_may_be_run_twice(database: FreshDatabase, shop: dict[str, Any]) -> None:
    """Every statement is harmless the second time."""
    call_command("migrate", "channels_pg_secrets", database="shop", verbosity=0)
    for statement in 2 * (grants(database).before_migrate() + grants(database).after_migrate()):
        database.execute(statement)


def test_a_wrong_password_is_w012(database: FreshDatabase) -> None:
    """The refusal is one message, with a hint and without the password."""
    login = database.login()
    (message,) = found(database.settings(Login(login.user, "canary")))
    assert message.id == "channels_pg_secrets.W012"
    assert message.hint
    assert "canary" not in str(message)


def test_an_unreachable_server_is_w013() -> None:
    """Nobody listening on the port is one message with a hint."""
    (message,) = found({"NAME": "db", "HOST": "127.0.0.1", "PORT": 1})
    assert message.id == "channels_pg_secrets.W013"
    assert message.hint


@pytest.fixture
def ready(database: FreshDatabase, shop: dict[str, Any]) -> dict[str, Any]:
    """CONFIG of a layer that works."""
    call_command("migrate", "channels_pg_secrets", database="shop", verbosity=0)
    for statement in grants(database).after_migrate():
        database.execute(statement)
    return database.settings(database.login())


@pytest.mark.parametrize(
    ("listen", "number", "text"),
    [
        ({"PORT": 1}, "W013", "LISTEN: "),
        ({"NAME": "postgres"}, "W019", "not the database"),
        ({"USER": "nobody_at_all"}, "W012", "LISTEN: "),
        ({"OPTIONS": {"connect_timeout": 3}}, None, ""),
    ],
)
def test_the_listening_connection_is_tried_as_well(
    database: FreshDatabase, ready: dict[str, Any], listen: Any, number: str | None, text: str
) -> None:
    """LISTEN that leads nowhere, or somewhere else, is found: the layer would be deaf."""
    if "NAME" in listen:
        database.server.execute(f'GRANT CONNECT ON DATABASE postgres TO "{ready["USER"]}"')
    messages = found({**ready, "LISTEN": listen})
    if "NAME" in listen:
        database.server.execute(f'REVOKE ALL ON DATABASE postgres FROM "{ready["USER"]}"')
    assert [message.id for message in messages] == ([f"channels_pg_secrets.{number}"] * bool(text))
    assert all(text in message.msg for message in messages)


def test_a_notification_that_does_not_come_is_w019(
    ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listening connection that hears nothing, as through a pooler, is one message."""
    monkeypatch.setattr(readiness, "_ROUND_TRIP", 0.1)
    monkeypatch.setattr(readiness, "_NOTIFY", "SELECT %s::text")
    (message,) = found({**ready, "LISTEN": {"OPTIONS": {"connect_timeout": 3}}})
    assert message.id == "channels_pg_secrets.W019"
    assert "PgBouncer" in str(message.hint)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_isolation_that_hides_others_is_w021(
    database: FreshDatabase, ready: dict[str, Any], level: str
) -> None:
    """What the hint says to do helps, whoever set it."""
    options = {"options": f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}"}
    (message,) = found({**ready, "OPTIONS": options})
    assert message.id == "channels_pg_secrets.W021"
    assert f"'{level}'" in message.msg
    database.execute(
        f"ALTER ROLE \"{ready['USER']}\" SET default_transaction_isolation = '{level}'"
    )
    (message,) = found(ready)
    assert message.id == "channels_pg_secrets.W021"
    database.execute(re.findall("ALTER ROLE .*?;", str(message.hint))[0])
    assert found(ready) == []


class KeyMissing(PostgresEngine):
    def connection_params(self) -> dict[str, Any]:
        raise KeyError("canary")


@pytest.mark.parametrize(
    ("more", "number", "text"),
    [
        ({"ENGINE": KeyMissing}, "W018", "KeyError in connection_params, "),
        ({"OPTIONS": {"assume_role": "postgres"}}, "W017", "assume_role"),
        ({"OPTIONS": {"assume_role": "no_such_role"}}, "W017", "assume_role"),
        ({"OPTIONS": {"sslmode": "requir"}}, "W017", "OPTIONS"),
    ],
)
def test_the_cause_is_named(ready: dict[str, Any], more: Any, number: str, text: str) -> None:
    """Neither an engine that fails nor a wrong option is blamed on the store or the network."""
    (message,) = found({**ready, **more})
    assert message.id == f"channels_pg_secrets.{number}"
    assert text in f"{message.msg} {message.hint}"
    assert "canary" not in str(message)


def test_missing_tables_say_where_they_are_missed(
    database: FreshDatabase, shop: dict[str, Any]
) -> None:
    """W010 names the database, the login, and the alias to migrate if there is one."""
    login = database.login()
    (message,) = found(database.settings(login))
    assert f"'{database.name}'" in message.msg
    assert f"'{login.user}'" in message.msg
    assert "--database shop" in str(message.hint)
    shop["NAME"] = "another"
    (message,) = found(database.settings(login))
    assert "no alias of DATABASES is this database" in str(message.hint)


def test_following_the_hint_about_rights_helps(
    database: FreshDatabase, shop: dict[str, Any]
) -> None:
    """The statements of W011's hint give the login what it lacks."""
    call_command("migrate", "channels_pg_secrets", database="shop", verbosity=0)
    database.execute("CREATE ROLE other_login LOGIN PASSWORD 'word'")
    database.execute(f"GRANT CONNECT ON DATABASE {database.name} TO other_login")
    try:
        config = database.settings(Login("other_login", "word"))
        (message,) = found(config)
        assert message.id == "channels_pg_secrets.W011"
        assert "grants --role ROLE" in str(message.hint)
        member, alone = re.findall("GRANT .*?(?=[.;])", str(message.hint))
        for each in grants(database).after_migrate():
            database.execute(each)
        database.execute(member.replace("GRANT ROLE", f'GRANT "{database.runtime}"'))
        assert found(config) == []
        database.execute(f'REVOKE "{database.runtime}" FROM other_login')
        assert found(config) != []
        database.execute(alone)
        assert found(config) == []
    finally:
        database.execute("DROP OWNED BY other_login")
        database.execute("DROP ROLE other_login")


def vault(address: str, token: str) -> dict[str, Any]:
    auth = {"METHOD": "token", "TOKEN": token}
    return {"ADAPTER": "vault", "ADDRESS": address, "ROLE": "app", "AUTH": auth}


@pytest.mark.long
def test_an_unreachable_vault_is_w014(database: FreshDatabase) -> None:
    """A store that does not answer is one message that names its address."""
    config = database.settings(CREDENTIALS=vault("http://127.0.0.1:1", "canary"))
    (message,) = found(config)
    assert message.id == "channels_pg_secrets.W014"
    assert "127.0.0.1:1" in message.msg
    assert "canary" not in str(message)


def test_a_denied_vault_is_w015(database: FreshDatabase, openbao: OpenBaoServer) -> None:
    """A token that Vault refuses is one message, and the token is not in it."""
    config = database.settings(CREDENTIALS=vault(openbao.address, "canary"))
    (message,) = found(config)
    assert message.id == "channels_pg_secrets.W015"
    assert "canary" not in str(message)


def test_a_variable_that_is_not_set_is_w016(database: FreshDatabase) -> None:
    """A store that has no such secret is one message that names what is missing."""
    credentials = {"ADAPTER": "env", "PASSWORD": "NO_SUCH_VARIABLE"}
    (message,) = found(database.settings(CREDENTIALS=credentials))
    assert message.id == "channels_pg_secrets.W016"
    assert "NO_SUCH_VARIABLE" in message.msg


def test_only_the_layers_of_the_database_asked_about(shop: dict[str, Any]) -> None:
    """A layer that uses an alias is examined with that alias and with no other."""
    assert found({"USING": "shop"}, "default") == []
    (message,) = found({"USING": "shop"}, "shop")
    assert message.id == "channels_pg_secrets.W010"


async def test_using_follows_the_alias(database: FreshDatabase, shop: dict[str, Any]) -> None:
    """Connections go where the alias points at that moment, as in a test whose database is new."""
    engine = PostgresEngine({"USING": "shop"})
    original = shop["NAME"]
    shop["NAME"] = "postgres"
    opened = await engine.open_connection()
    assert opened.connection.info.dbname == "postgres"
    await opened.close()
    shop["NAME"] = original
    opened = await engine.open_connection()
    assert opened.connection.info.dbname == database.name
    await opened.close()


async def test_using_takes_the_credentials_of_the_alias(
    database: FreshDatabase, shop: dict[str, Any]
) -> None:
    """ORM and layer share one source, which the layer's connections are stamped by."""
    login = database.login()
    adapter = ScriptedAdapter()
    adapter.then(lambda: _credentials(login))
    shop |= {
        "ENGINE": "channels_pg_secrets.db.postgresql",
        "CREDENTIALS": adapter,
        "USER": "",
        "PASSWORD": "",
    }
    engine = build_engine({"USING": "shop"})
    assert isinstance(engine, PostgresEngine)
    assert engine.source is not None
    opened = await engine.open_connection()
    assert opened.connection.info.user == login.user
    assert (opened.generation, adapter.fetches) == (1, 1)
    wrapper = connections["shop"]
    assert isinstance(wrapper, DatabaseWrapper)
    assert engine.source is wrapper.credential_source
    await opened.close()
    engine.source.close()


def _credentials(login: Login) -> Any:
    from pg_secrets.credentials import Credentials

    return Credentials(user=login.user, password=login.password)
