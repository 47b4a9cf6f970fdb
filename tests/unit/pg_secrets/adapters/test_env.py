"""The env adapter."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.env import EnvAdapter
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsNotFound,
)


def adapter(environ: dict[str, str], **config: Any) -> EnvAdapter:
    return EnvAdapter.from_config(config, environ=environ)


def test_libpq_names_are_the_default() -> None:
    """Without options PGUSER and PGPASSWORD are read."""
    found = adapter({"PGUSER": "app", "PGPASSWORD": "pw"}).fetch()
    assert found.connection_params() == {"user": "app", "password": "pw"}


def test_user_may_be_left_to_the_settings() -> None:
    """An unset PGUSER leaves the user out instead of failing."""
    assert adapter({"PGPASSWORD": "pw"}).fetch().connection_params() == {"password": "pw"}


def test_named_user_must_be_set() -> None:
    """A user variable that was named and is not set is an error that names it."""
    with pytest.raises(CredentialsNotFound, match="DB_USER"):
        adapter({"PGPASSWORD": "pw"}, USERNAME="DB_USER").fetch()


def test_every_part_can_be_named() -> None:
    """Host, port and database come from the variables named, the port as a number."""
    environ = {"U": "app", "P": "pw", "H": "db", "O": "5433", "D": "chat"}
    found = adapter(environ, USERNAME="U", PASSWORD="P", HOST="H", PORT="O", DBNAME="D").fetch()
    assert found.parameters == {"host": "db", "port": 5433, "dbname": "chat"}


def test_json_variable() -> None:
    """One JSON variable gives user, password and the parameters in it."""
    text = json.dumps({"username": "app", "password": "pw", "port": "5432", "engine": "postgres"})
    found = adapter({"SECRET": text}, JSON="SECRET").fetch()
    assert found.connection_params() == {"user": "app", "password": "pw", "port": 5432}


def test_json_fields_take_nothing_else() -> None:
    """With FIELDS just the named keys are taken."""
    text = json.dumps({"u": "app", "pw": "x", "host": "other"})
    found = adapter({"S": text}, JSON="S", FIELDS={"user": "u", "password": "pw"}).fetch()
    assert found.connection_params() == {"user": "app", "password": "x"}


def test_url_variable() -> None:
    """A URL is read as libpq reads it, escapes and query included."""
    found = adapter({"URL": "postgres://a%40b:p%2Fw@h:5/d?sslmode=require"}, URL="URL").fetch()
    assert found.connection_params() == {
        "user": "a@b",
        "password": "p/w",
        "host": "h",
        "port": 5,
        "dbname": "d",
        "sslmode": "require",
    }


def test_file_convention(tmp_path: Path) -> None:
    """PGPASSWORD_FILE stands in for PGPASSWORD, its trailing newline dropped."""
    secret = tmp_path / "pw"
    secret.write_text("from-file\n")
    environ = {"PGUSER": "app", "PGPASSWORD_FILE": str(secret)}
    assert adapter(environ).fetch().password == "from-file"


def test_optional_user_from_a_file(tmp_path: Path) -> None:
    """PGUSER_FILE alone counts as a user that is given."""
    (tmp_path / "user").write_text("app")
    environ = {"PGUSER_FILE": str(tmp_path / "user"), "PGPASSWORD": "pw"}
    assert adapter(environ).fetch().user == "app"


def test_variable_and_file_exclude_each_other(tmp_path: Path) -> None:
    """X and X_FILE both set is a misconfiguration that names both and shows neither."""
    environ = {"PGPASSWORD": "s3cret", "PGPASSWORD_FILE": str(tmp_path / "pw")}
    with pytest.raises(AdapterMisconfigured, match="PGPASSWORD and PGPASSWORD_FILE") as caught:
        adapter(environ).fetch()
    assert "s3cret" not in str(caught.value)


def test_blank_variable_yields_to_its_file(tmp_path: Path) -> None:
    """An empty X beside X_FILE counts as not set, as in Docker's images."""
    (tmp_path / "pw").write_text("pw")
    environ = {"PGPASSWORD": "", "PGPASSWORD_FILE": str(tmp_path / "pw")}
    assert adapter(environ).fetch().password == "pw"


@pytest.mark.parametrize(
    ("environ", "error", "text"),
    [
        ({}, CredentialsNotFound, "PGPASSWORD is not set, nor is PGPASSWORD_FILE"),
        ({"PGPASSWORD": ""}, CredentialsInvalid, "PGPASSWORD is set but empty"),
        ({"PGPASSWORD_FILE": ""}, CredentialsInvalid, "PGPASSWORD_FILE is set but empty"),
        ({"PGPASSWORD": "a\nb"}, CredentialsInvalid, "more than one line"),
        ({"PGPASSWORD": "p\udcffw"}, CredentialsInvalid, "cannot take"),
        ({"PGPASSWORD_FILE": "/does/not/exist"}, CredentialsNotFound, "/does/not/exist"),
        ({"PGPASSWORD_FILE": "/proc"}, CredentialsInvalid, "a directory"),
    ],
)
def test_what_can_be_wrong(environ: dict[str, str], error: type[Exception], text: str) -> None:
    """Unset, empty, unusable and missing are told apart."""
    with pytest.raises(error, match=text):
        adapter(environ).fetch()


def test_unreadable_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file this process may not read is a denial, not an absence."""
    (tmp_path / "pw").write_text("pw")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("os.open", refuse)  # root, as which tests may run, is never refused
        with pytest.raises(CredentialsDenied, match="may not read"):
            adapter({"PGPASSWORD_FILE": str(tmp_path / "pw")}).fetch()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"JSON": "A", "URL": "B"}, "JSON: excludes URL"),
        ({"URL": "A", "PASSWORD": "B"}, "URL: excludes PASSWORD"),
        ({"FIELDS": {"user": "u"}}, "FIELDS: is only of use together with JSON"),
        ({"JSON": "A", "FIELDS": {"usr": "u"}}, "did you mean 'user'"),
        ({"JSON": "A", "FIELDS": {}}, "FIELDS: found an empty mapping"),
        ({"JSON": "A", "FIELDS": {"user": 3}}, "'user' must name a key"),
        ({"PASWORD": "A"}, "did you mean PASSWORD"),
        ({"PASSWORD": 3}, "PASSWORD: found an int"),
    ],
)
def test_wrong_options(config: dict[str, Any], text: str) -> None:
    """A wrong option is refused when the adapter is built, and named."""
    with pytest.raises(AdapterMisconfigured, match=text):
        EnvAdapter.from_config(config)


def test_change_while_running() -> None:
    """changed() is true from the moment a variable holds something else."""
    environ = {"PGUSER": "app", "PGPASSWORD": "one"}
    reader = adapter(environ)
    found = reader.fetch()
    assert reader.changed(found) is False
    environ["PGPASSWORD"] = "two"
    assert reader.changed(found) is True
    assert reader.changed(reader.fetch()) is False


def test_vanished_variable_counts_as_changed() -> None:
    """A variable that went away makes changed() true, so that the error comes to light."""
    environ = {"PGPASSWORD": "one"}
    reader = adapter(environ)
    found = reader.fetch()
    del environ["PGPASSWORD"]
    assert reader.changed(found) is True


def test_no_secret_in_errors() -> None:
    """Neither an error's text, nor its context, nor the frames it came through hold the secret."""
    reader = adapter({"S": '{"password": "s3cret'}, JSON="S")
    with pytest.raises(CredentialsInvalid, match="line 1") as caught:
        reader.fetch()
    error = caught.value
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
    assert frames
    assert error.__context__ is None
    for frame in frames:
        assert "s3cret" not in repr(frame.f_locals)
    assert "s3cret" not in str(error)
