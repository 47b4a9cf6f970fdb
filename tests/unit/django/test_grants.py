"""``manage.py channels_pg_secrets grants``."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from channels_pg_secrets.management.grants import Grants


def failing(config: Any, credentials: Any) -> Any:
    raise ValueError("canary")


def run(*arguments: str, **layers: Any) -> str:
    out = io.StringIO()
    layers = layers or {"default": {"CONFIG": {"NAME": "chat", "CREDENTIALS": "env"}}}
    with override_settings(CHANNEL_LAYERS=layers):
        call_command("channels_pg_secrets", "grants", *arguments, stdout=out)
    return out.getvalue()


def test_json_has_the_same_statements_as_the_script() -> None:
    """Every statement of the JSON stands in the script as a line of its own."""
    found = json.loads(run("--json", "--role", "app", "--owner", "boss"))
    lines = run("--role", "app", "--owner", "boss").splitlines()
    assert (found["layer"], found["role"], found["owner"]) == ("default", "app", "boss")
    for statement in found["before_migrate"] + found["after_migrate"]:
        assert statement in lines


def test_the_runtime_role_gets_execute_and_nothing_on_tables() -> None:
    """EXECUTE is granted on functions by name, and no GRANT mentions a table."""
    statements = json.loads(run("--json"))["after_migrate"]
    assert any('"public"."channels_pg_secrets_publish_v1"' in line for line in statements)
    assert all(line.startswith("GRANT EXECUTE ON FUNCTION ") for line in statements)
    # Whoever may call this one writes to any process in any sender's name.
    assert not any("channels_pg_secrets_emit_v1" in line for line in statements)


def test_the_owner_is_the_role_that_is_assumed() -> None:
    """OPTIONS["assume_role"] of the layer, or of its alias, is the default owner."""
    config = {"NAME": "chat", "OPTIONS": {"assume_role": "chat_owner"}}
    assert json.loads(run("--json", default={"CONFIG": config}))["owner"] == "chat_owner"


def test_the_script_says_how_a_login_becomes_a_member() -> None:
    """Rights go to a role, and so the script ends with the line that gives it to logins."""
    assert run("--role", "app").splitlines()[-1] == '-- GRANT "app" TO <each login>;'


def test_names_are_quoted() -> None:
    """A name with a quote in it cannot end the identifier."""
    grants = Grants(owner="o", role='r"; DROP', database='d"b', schema="s")
    assert any('TO "r""; DROP";' in line for line in grants.after_migrate())
    assert any('ON DATABASE "d""b"' in line for line in grants.before_migrate())


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ({"other": {"ENGINE": "memory"}}, "no channel layer 'default'. Layers: other"),
        ({"default": {"ENGINE": "memory"}}, "does not use PostgreSQL"),
        ({"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}, "not one of"),
        ({"default": {"CONFIG": {"NAEM": "x"}}}, "NAEM"),
        ({"default": {"CONFIG": {"ENGINE": failing}}}, "failed with ValueError in failing"),
        ({"default": "a.b"}, "must be a dict"),
        ({"default": {"CONFIG": {"CREDENTIALS": "env"}}}, "give --database"),
    ],
)
def test_a_layer_that_will_not_do_is_a_plain_sentence(layers: Any, text: str) -> None:
    """The command ends with one line that says what is wrong."""
    with pytest.raises(CommandError, match=text):
        run(**layers)


def test_no_subcommand_is_an_error() -> None:
    """The command alone does nothing and says what there is."""
    with pytest.raises(CommandError, match="subcommand"):
        call_command("channels_pg_secrets")
