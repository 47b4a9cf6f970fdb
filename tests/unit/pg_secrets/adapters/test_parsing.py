"""The formats a whole login can be written in."""

from __future__ import annotations

import pytest

from pg_secrets.errors import CredentialsInvalid
from pg_secrets.fields import DOCUMENT_KEYS, FieldMap, login
from pg_secrets.parsing import (
    DotenvFormat,
    JsonFormat,
    PasswordFormat,
    PgpassFormat,
    TextFormat,
    UrlFormat,
    detect_format,
)


def params(form: TextFormat, text: str) -> dict[str, object]:
    return form.parse(text, "here").connection_params()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ('{"password": "s3cret', "half-written"),
        ("[1]", "is a list"),
        ("[" * 60000, "nested too deeply"),
        ('{"username": "app"}', "no 'password'"),
        ('{"password": null}', "no 'password'"),
        ('{"password": ""}', "password is empty"),
        ('{"password": 7}', "of type int"),
        ('{"password": ["s3cret"]}', "of type list"),
        ('{"password": "s3\\u0000cret"}', "cannot take"),
        ('{"password": "s3\\ud800cret"}', "cannot take"),
        ('{"password": "x", "port": "s3cret"}', "port is not a number"),
        ('{"password": "x", "port": 0}', "port is not a number"),
        ('{"password": "x", "host": true}', "of type bool"),
    ],
)
def test_bad_json(text: str, problem: str) -> None:
    """JSON that is no login says what is wrong with it, and never quotes it."""
    with pytest.raises(CredentialsInvalid, match=f"here.*{problem}") as caught:
        JsonFormat().parse(text, "here")
    assert "s3" not in str(caught.value)


def test_json_null_is_absent() -> None:
    """A null user counts as not given."""
    assert params(JsonFormat(), '{"user": null, "password": "x"}') == {"password": "x"}


def test_explicit_field_must_be_there() -> None:
    """A key that FIELDS names is required, and the error names it."""
    fields = FieldMap({"password": "pw", "sslmode": "ssl"}, keys=DOCUMENT_KEYS)
    with pytest.raises(CredentialsInvalid, match="'ssl'"):
        JsonFormat(fields).parse('{"pw": "x"}', "here")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("PGPASSWORD=plain", "plain"),
        ("PGPASSWORD = spaced  ", "spaced"),
        ("export PGPASSWORD=x", "x"),
        ("PGPASSWORD=a#b$c'd", "a#b$c'd"),
        ("PGPASSWORD=a #b", "a"),
        ('PGPASSWORD="a\\"b #c\\\\d$HOME"  # why', 'a"b #c\\d$HOME'),
        ("PGPASSWORD='a\\nb'", "a\\nb"),
        ("PGPASSWORD=old\r\nPGPASSWORD=new\r\n", "new"),
        ("# a comment\n\nPOSTGRES_PASSWORD=x=y", "x=y"),
    ],
)
def test_dotenv_values(line: str, value: str) -> None:
    """Quotes, comments and escapes are read as a shell-like file means them, nothing expanded."""
    assert params(DotenvFormat(), line) == {"password": value}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("PGUSER=a\ns3cret", "line 2"),
        ('PGPASSWORD="s3cret', "line 1"),
        ("PGPASSWORD='s3cret' more", "line 1"),
        ("OTHER=s3cret", "PGPASSWORD"),
        ("PGPASSWORD=", "password is empty"),
    ],
)
def test_bad_dotenv(text: str, problem: str) -> None:
    """A line that cannot be read is named by number, never by content."""
    with pytest.raises(CredentialsInvalid, match=problem) as caught:
        DotenvFormat().parse(text, "here")
    assert "s3cret" not in str(caught.value)


def test_dotenv_all_parts() -> None:
    """A dotenv file gives host, port and database where they are there."""
    text = "PGUSER=a\nPGPASSWORD=b\nPGHOST=h\nPGPORT=6543\nPGDATABASE=d\n"
    expected = {"user": "a", "password": "b", "host": "h", "port": 6543, "dbname": "d"}
    assert params(DotenvFormat(), text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "postgres://app:s3/cret@h/db",  # libpq takes app for the host
        "postgres://app@h/db",
        "postgres://app:s3%zzcret@h/db",
        "postgres://app:pw@h/db?s3cret=1",
        "mysql://app:s3cret@h/db",
        "host=h password=s3cret",
        "",
    ],
)
def test_bad_url(text: str) -> None:
    """A URL without a password that libpq can find is refused without quoting any of it."""
    with pytest.raises(CredentialsInvalid) as caught:
        UrlFormat().parse(text, "here")
    assert "s3" not in str(caught.value)


def test_url_with_several_hosts() -> None:
    """libpq's list of hosts and ports passes through as it is."""
    found = params(UrlFormat(), "postgresql://a:b@h1:1,h2:2/d\n")
    assert (found["host"], found["port"]) == ("h1,h2", "1,2")


@pytest.mark.parametrize(
    ("text", "match", "expected"),
    [
        ("h:5432:db:app:pw\n", {}, {"user": "app", "password": "pw"}),
        ("# c\n\n*:*:*:app:p\\:w\\\\x", {}, {"user": "app", "password": "p:w\\x"}),
        ("*:*:*:app:p:w", {}, {"user": "app", "password": "p:w"}),
        ("*:*:*:*:pw", {}, {"password": "pw"}),
        ("*:*:*:*:pw", {"user": "app"}, {"user": "app", "password": "pw"}),
        ("h1:*:*:a:1\nh2:*:*:b:2\n*:*:*:c:3", {"host": "h2"}, {"user": "b", "password": "2"}),
        ("h1:*:*:a:1\r\n*:*:*:c:3\r\n", {"host": "x"}, {"user": "c", "password": "3"}),
        (r"fe80\:\:1:*:*:a:1", {"host": "fe80::1"}, {"user": "a", "password": "1"}),
    ],
)
def test_pgpass(text: str, match: dict[str, str], expected: dict[str, str]) -> None:
    """The first line that fits gives user and password, as in libpq."""
    assert params(PgpassFormat(match), text) == expected


@pytest.mark.parametrize(
    ("text", "match", "problem"),
    [
        ("*:*:*:a:1\n*:*:*:b:2", {}, "2 entries"),
        ("*:*:*:a:1", {"user": "b"}, r"fits MATCH \(user\)"),
        ("# nothing", {}, "no line"),
        ("*:*:*:s3cret", {}, "line 1"),
        ("*:*:*:a:", {}, "password is empty"),
        ("", {}, "empty"),
    ],
)
def test_bad_pgpass(text: str, match: dict[str, str], problem: str) -> None:
    """An ambiguous, unfitting or broken password file is refused."""
    with pytest.raises(CredentialsInvalid, match=problem) as caught:
        PgpassFormat(match).parse(text, "here")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("text", ["pw", "pw\n", "pw\r\n"])
def test_bare_password(text: str) -> None:
    """One line end after a bare password is dropped."""
    assert params(PasswordFormat(), text) == {"password": "pw"}


def test_bare_password_keeps_its_spaces() -> None:
    """Spaces belong to a bare password."""
    assert params(PasswordFormat(), " p w \n") == {"password": " p w "}


@pytest.mark.parametrize("text", ["", "\n", "a\nb", "a\n\n"])
def test_bad_bare_password(text: str) -> None:
    """Nothing, or more than a line, is no bare password."""
    with pytest.raises(CredentialsInvalid):
        PasswordFormat().parse(text, "here")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (' {"a"', JsonFormat),
        ("postgres://x", UrlFormat),
        ("postgresql://x", UrlFormat),
        ("PGPASSWORD=x", type(None)),
        ("*:*:*:a:b", type(None)),
        ("pw", type(None)),
    ],
)
def test_only_what_is_unambiguous_is_detected(text: str, form: type[object]) -> None:
    """Text that could be a bare password is not guessed at."""
    assert type(detect_format(text)) is form


def test_login_keeps_parameters_apart() -> None:
    """Everything but user and password becomes a parameter."""
    found = login({"user": "a", "password": "b", "sslmode": "require"}, "here")
    assert (found.user, found.password, dict(found.parameters)) == (
        "a",
        "b",
        {"sslmode": "require"},
    )
