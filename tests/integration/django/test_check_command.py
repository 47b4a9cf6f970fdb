"""``manage.py channels_pg_secrets check``: the whole way, with the layer's own login."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from channels_pg_secrets import readiness
from pg_secrets.testing.database import FreshDatabase, Login
from tests.integration.layer.conftest import migrate


def run(config: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    out = io.StringIO()
    with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": config}}):
        try:
            call_command("channels_pg_secrets", "check", *arguments, stdout=out)
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def kept_in(file: Path, login: Login) -> dict[str, Any]:
    """Return CREDENTIALS that read a login from a file."""
    file.write_text(json.dumps({"username": login.user, "password": login.password}))
    return {"ADAPTER": "files", "PATH": str(file)}


def test_a_layer_that_is_ready(database: FreshDatabase, tmp_path: Path) -> None:
    """It says so, whose login it is and where that comes from, and nothing secret."""
    migrate(database)
    login = database.login()
    config = {**database.settings(), "CREDENTIALS": kept_in(tmp_path / "login.json", login)}
    code, text = run(config)
    assert code == 0
    assert "'default': ready" in text
    assert f"comes from 'files': generation 1, user {login.user}" in text
    code, printed = run(config, "--json")
    found = json.loads(printed)
    assert code == 0
    assert (found["ready"], found["findings"]) == (True, [])
    assert (found["credentials"]["user"], found["credentials"]["generation"]) == (login.user, 1)
    assert login.password not in text + printed


def test_what_is_wrong_is_found_and_comes_with_what_mends_it(
    database: FreshDatabase, tmp_path: Path
) -> None:
    """Tables that are missing, and a password that is wrong."""
    login = database.login()
    config = {**database.settings(), "CREDENTIALS": kept_in(tmp_path / "login.json", login)}
    code, printed = run(config, "--json")
    (finding,) = json.loads(printed)["findings"]
    assert (code, finding["id"]) == (1, "channels_pg_secrets.W010")
    assert "migrate" in finding["hint"]
    config["CREDENTIALS"] = kept_in(tmp_path / "wrong.json", Login(login.user, "canary-s3cret"))
    code, text = run(config)
    assert code == 1
    assert "not ready" in text
    assert "W012" in text
    assert "canary" not in text


def test_a_store_with_nothing_in_it(database: FreshDatabase, tmp_path: Path) -> None:
    """Credentials that cannot be had are a finding too."""
    where = {"ADAPTER": "files", "PATH": str(tmp_path / "none.json")}
    code, text = run({**database.settings(), "CREDENTIALS": where})
    assert code == 1
    assert "comes from 'files', which gave none" in text
    assert "W016" in text


def test_a_login_in_the_settings(database: FreshDatabase) -> None:
    """Without CREDENTIALS there is no store to speak of."""
    migrate(database)
    code, text = run(database.settings(database.login()))
    assert code == 0
    assert "stands in the settings" in text


def test_listening_through_a_pooler_is_tried(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round trip is made even where LISTEN has no settings of its own."""
    monkeypatch.setattr(readiness, "_ROUND_TRIP", 0.5)
    migrate(database)
    config = database.settings(database.login())
    database.execute("CREATE SCHEMA shadow")
    database.execute(
        "CREATE FUNCTION shadow.pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'"
    )
    database.execute("GRANT USAGE ON SCHEMA shadow TO PUBLIC")
    config["OPTIONS"] = {"options": "-c search_path=shadow,public,pg_catalog"}
    code, text = run(config)
    assert code == 1
    assert "does not hear" in text


def test_a_layer_that_is_not_there() -> None:
    """The message names those there are."""
    with pytest.raises(CommandError, match="Layers: default"):
        run({"NAME": "chat"}, "--layer", "other")
