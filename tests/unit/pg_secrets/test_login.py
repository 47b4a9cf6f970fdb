"""How a failed connect is read; the other end of the wire is played by a few bytes."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pg_secrets import (
    Credentials,
    CredentialSource,
    Lease,
    LoginRejected,
    aconnect,
    connect,
)
from pg_secrets.login import LoginParams, open_async, open_sync, with_defaults
from pg_secrets.sqlstate import classifying, readable
from pg_secrets.testing.adapter import ScriptedAdapter

Open = Callable[..., Any]


def open_on_a_loop(params: dict[str, Any], **more: Any) -> Any:
    return asyncio.run(open_async(params, **more))


@pytest.fixture(params=[open_sync, open_on_a_loop], ids=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Open:
    opener: Open = request.param
    return opener


def refusal(code: str, message: str, severity: str = "FATAL") -> bytes:
    fields = {"S": severity, "V": "FATAL", "C": code, "M": message, "F": "auth.c", "L": "1"}
    fields["R"] = "auth_failed"
    body = b"".join(key.encode() + text.encode() + b"\0" for key, text in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


ASK_CLEARTEXT = b"R" + struct.pack("!II", 8, 3)


@contextmanager
def server(*answers: bytes | Callable[[], bytes]) -> Iterator[dict[str, Any]]:
    """Answer each connection: one piece after the start-up packet, one after each message."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                for answer in answers:
                    if not connection.recv(4096):
                        break
                    connection.sendall(answer if isinstance(answer, bytes) else answer())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    params = {"host": "127.0.0.1", "port": listening.getsockname()[1], "user": "app"}
    try:
        yield {**params, "password": "canary-word", "sslmode": "disable", "gssencmode": "disable"}
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10.0)


def test_sqlstates_can_be_read() -> None:
    """With the psycopg and libpq that are installed, the exact way works, not the guess."""
    assert readable()


def test_psycopg_still_connects_by_the_step_we_replace() -> None:
    """psycopg's connect() goes through _connect_gen and makes no exception for subclasses."""
    for kind in (psycopg.Connection, psycopg.AsyncConnection):
        assert "_connect_gen(conninfo" in inspect.getsource(kind.connect)
        assert classifying(kind) is not kind
        assert issubclass(classifying(kind), kind)


def test_class_with_a_step_of_its_own_is_left_alone() -> None:
    """A connection class that replaces the same step keeps it."""

    class Special(psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, conninfo: str = "", **more: Any) -> Any:
            raise AssertionError

    assert classifying(Special) is Special


@pytest.mark.parametrize("code", ["28P01", "28000"])
@pytest.mark.parametrize("severity", ["FATAL", "致命的エラー", "ВАЖНО"])
def test_class_28_is_a_rejection_in_any_language(opened: Open, code: str, severity: str) -> None:
    """A refusal is known by its SQLSTATE, not by its text."""
    with (
        server(refusal(code, "nein: 53300: nicht", severity)) as params,
        pytest.raises(LoginRejected) as caught,
    ):
        opened(params)
    assert caught.value.sqlstate == code
    assert "nein" in str(caught.value)
    assert "auth.c" not in str(caught.value)


@pytest.mark.parametrize("code", ["53300", "57P03", "3D000", "42501"])
def test_other_errors_are_no_rejection(opened: Open, code: str) -> None:
    """Too many connections, starting up and missing databases do not speak against the login."""
    with (
        server(refusal(code, "no password authentication failed")) as params,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        opened(params)
    assert not isinstance(caught.value, LoginRejected)
    assert caught.value.sqlstate == code


def test_refused_connection_has_no_sqlstate(opened: Open) -> None:
    """Where no server answers there is nothing to interpret."""
    with server() as params:
        pass
    with pytest.raises(psycopg.OperationalError) as caught:
        opened(params)
    assert not isinstance(caught.value, LoginRejected)
    assert caught.value.sqlstate is None


def test_one_refusal_among_several_hosts_counts(opened: Open) -> None:
    """When one host refuses the login and another is down, the login was refused."""
    with server() as away:
        pass
    with server(refusal("28P01", "no")) as params:
        for ports in ([params["port"], away["port"]], [away["port"], params["port"]]):
            several = {**params, "host": "127.0.0.1,127.0.0.1", "port": "{},{}".format(*ports)}
            with pytest.raises(LoginRejected) as caught:
                opened(several)
            assert caught.value.sqlstate == "28P01"


def test_missing_password_is_a_rejection(opened: Open) -> None:
    """A server that wants a password, where there is none to send, needs other credentials."""
    with (
        server(ASK_CLEARTEXT) as params,
        pytest.raises(LoginRejected) as caught,
    ):
        opened({**params, "password": ""})
    assert caught.value.sqlstate is None


def test_password_leaves_in_no_exception(opened: Open) -> None:
    """A server that echoes the cleartext password is quoted without it, and without pgconn."""
    with (
        server(ASK_CLEARTEXT, refusal("28P01", "canary-word is wrong")) as params,
        pytest.raises(LoginRejected) as caught,
    ):
        opened(params)
    assert "canary" not in str(caught.value)
    assert "*** is wrong" in str(caught.value)
    assert caught.value.pgconn is None
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_guess_where_no_sqlstate_can_be_read(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SQLSTATEs, an error after a password was asked for is taken for a rejection."""
    monkeypatch.setattr("pg_secrets.login.classifying", lambda kind: kind)
    with (
        server(ASK_CLEARTEXT, refusal("28P01", "canary-word is wrong")) as params,
        pytest.raises(LoginRejected) as caught,
    ):
        opened(params)
    assert caught.value.sqlstate is None
    assert caught.value.pgconn is None
    assert "canary" not in str(caught.value)
    with (
        server(refusal("57P03", "starting up")) as params,
        pytest.raises(psycopg.OperationalError) as other,
    ):
        opened(params)
    assert not isinstance(other.value, LoginRejected)


def test_time_out_is_an_outage(opened: Open) -> None:
    """A server that accepts and says nothing is given up after connect_timeout."""
    with (
        server(b"", b"") as params,
        pytest.raises(psycopg.OperationalError, match="timeout"),
    ):
        opened({**params, "connect_timeout": 2})


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


LOGGED_IN = (
    message(b"R", struct.pack("!I", 0))
    + message(b"S", b"server_version\x0016.0\0")
    + message(b"S", b"client_encoding\0UTF8\0")
    + message(b"K", struct.pack("!II", 1, 2))
    + message(b"Z", b"I")
)
#: For the helper that plays the server: say nothing, and wait for more, which never comes.
SILENCE = (b"", b"")


def connect_on_a_loop(*args: Any, **params: Any) -> Any:
    return asyncio.run(aconnect(*args, **params))


@pytest.fixture(params=[connect, connect_on_a_loop], ids=["sync", "async"])
def connected(request: pytest.FixtureRequest) -> Open:
    connector: Open = request.param
    return connector


@pytest.fixture
def source() -> Iterator[CredentialSource]:
    lease = Lease(id="lease", duration=3600.0)
    adapter = ScriptedAdapter(Credentials(user="app", password="canary-word", lease=lease))
    made = CredentialSource(adapter, background=False)
    yield made
    made.close()


def test_server_that_freezes_after_the_login_is_given_up(
    connected: Open, source: CredentialSource
) -> None:
    """A server that lets us in and answers nothing is given up after connect_timeout."""
    with (
        server(LOGGED_IN, *SILENCE) as params,
        pytest.raises(psycopg.errors.ConnectionTimeout, match="within 2 seconds"),
    ):
        connected(source, **params, connect_timeout=2)
    assert source.stats()["holds"] == 0


def test_server_that_leaves_after_the_login_is_an_outage(
    connected: Open, source: CredentialSource
) -> None:
    """A connection that breaks before the first answer is not handed over."""
    with server(LOGGED_IN, b"") as params, pytest.raises(psycopg.OperationalError):
        connected(source, **params)
    assert source.stats()["holds"] == 0


def test_server_that_knows_no_roles_is_connected_to(
    connected: Open, source: CredentialSource
) -> None:
    """A pooler's console, which has no pg_roles, is no reason to refuse the connection."""
    answer = refusal("42P01", "no such table", "ERROR") + message(b"Z", b"I")
    with server(LOGGED_IN, answer, *SILENCE) as params:
        connection = connected(source, **params)
        assert not connection.closed
        connection.pgconn.finish()
        source.close()


async def test_connect_that_is_cancelled_in_a_frozen_server_ends_at_once(
    source: CredentialSource,
) -> None:
    """A cancellation does not wait for the server to answer first."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> bytes:
        loop.call_soon_threadsafe(asked.set)
        return b""

    with server(LOGGED_IN, note, *SILENCE) as params:
        task = asyncio.ensure_future(aconnect(source, **params, connect_timeout=60))
        await asked.wait()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=3.0)
        assert done
    assert task.cancelled()
    assert source.stats()["holds"] == 0


def test_misspelt_keyword_is_an_error_before_anything_is_sent(opened: Open) -> None:
    """A keyword that libpq does not know is refused by name."""
    with pytest.raises(psycopg.ProgrammingError, match="hots"):
        opened({"hots": "db", "password": "canary-word"})


def test_malformed_conninfo_is_not_quoted(opened: Open) -> None:
    """libpq would quote the part it cannot read, which may be the password."""
    with pytest.raises(psycopg.ProgrammingError, match="conninfo: ") as caught:
        opened({"conninfo": "host=db password=a canary-word"})
    assert "canary" not in str(caught.value)


def test_defaults_fill_gaps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs and keepalives are added where neither call, conninfo nor environment has them."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    filled = with_defaults({"conninfo": "keepalives_idle=7", "tcp_user_timeout": 1})
    assert "connect_timeout" not in filled
    assert "keepalives_idle" not in filled
    assert filled["tcp_user_timeout"] == 1
    assert filled["keepalives"] == 1
    assert filled["fallback_application_name"] == "pg_secrets"
    assert "keepalives" not in with_defaults({"service": "x"})


def test_login_params_show_where_and_who() -> None:
    """The keywords' repr has host and user, not the password, and they cannot be pickled."""
    params = LoginParams(host="db", user="app", password="canary", sslpassword="canary")
    assert repr(params) == f"{params}" == "<LoginParams host='db' user='app'>"
    with pytest.raises(TypeError):
        pickle.dumps(params)
