"""The command adapter: what programs print, and every way in which they do not."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.command import MAX_OUTPUT, CommandAdapter
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract

LOGIN = {"username": "app", "password": "s3cret", "host": "db", "port": 5433}
NOW = 4_000_000_000.0


def printing(document: Any, **config: Any) -> CommandAdapter:
    text = document if isinstance(document, str) else json.dumps(document)
    return running("import sys; sys.stdout.write(sys.argv[1])", text, **config)


def running(program: str, *arguments: str, **config: Any) -> CommandAdapter:
    command = [sys.executable, "-c", program, *arguments]
    return CommandAdapter.from_config({"COMMAND": command, **config}, clock=lambda: NOW)


class TestContract(CredentialAdapterContract):
    """What all adapters keep."""

    def make_adapter(self) -> CommandAdapter:
        return printing(LOGIN)

    def expected(self) -> Mapping[str, Any]:
        return {"user": "app", "password": "s3cret", "host": "db", "port": 5433}


class TestUnreachable(UnreachableStoreContract):
    """A program that fails."""

    def make_unreachable(self) -> CommandAdapter:
        return running("raise SystemExit(3)")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({}, None),
        ({"expires_in": 90}, NOW + 90),
        ({"expires_at": NOW + 5}, NOW + 5),
        ({"expires_at": "2096-10-02T07:06:40Z"}, NOW),
        ({"expires_at": "2096-10-02T09:06:40+02:00"}, NOW),
        ({"expires_at": "2096-10-02T07:06:40"}, NOW),
    ],
)
def test_when_it_ends(end: dict[str, Any], expected: float | None) -> None:
    """A moment or a duration; without either the TTL decides."""
    assert printing({**LOGIN, **end}).fetch().expires_at == expected


def test_exec_credential() -> None:
    """What Kubernetes' credential plugins print: a token with an end, and no user."""
    status = {"token": "t0ken", "expirationTimestamp": "2096-10-02T07:06:40Z"}
    document = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": status,
    }
    found = printing(document).fetch()
    assert (found.user, found.password, found.expires_at) == (None, "t0ken", NOW)
    with pytest.raises(CredentialsInvalid, match=r"status\.token"):
        printing({**document, "status": {}}).fetch()


def test_other_keys() -> None:
    """FIELDS names the keys."""
    found = printing({"u": "me", "p": "pw"}, FIELDS={"user": "u", "password": "p"}).fetch()
    assert found.connection_params() == {"user": "me", "password": "pw"}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "no JSON object"),
        ('{"password": "s3cret', "no JSON object"),
        ('["s3cret"]', "no JSON object"),
        ({"username": "app"}, "password"),
        ({**LOGIN, "expires_in": "soon"}, "expires_in"),
        ({**LOGIN, "expires_in": -1}, "expires_in"),
        ({**LOGIN, "expires_at": "tomorrow"}, "RFC 3339"),
    ],
)
def test_what_is_no_login(document: Any, text: str) -> None:
    """Said without a word of what was printed."""
    with pytest.raises(CredentialsInvalid, match=text) as caught:
        printing(document).fetch()
    assert "s3cret" not in str(caught.value)


def test_a_program_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """Its status is told; what it wrote, to either stream, goes nowhere."""
    program = "import sys; print('s3cret'); print('s3cret', file=sys.stderr); sys.exit(7)"
    with pytest.raises(CredentialsUnavailable, match="status 7") as caught:
        running(program).fetch()
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "program",
    [
        "import threading; threading.Event().wait()",
        # It closes what it was to print to, and stays.
        "import os, threading; os.close(1); threading.Event().wait()",
        # Its child keeps the pipe open.
        "import subprocess; subprocess.Popen(['sleep', '600'])",
    ],
    ids=["hangs", "closes its output", "has a child"],
)
def test_a_program_that_takes_too_long(program: str) -> None:
    """It is killed, with all it has started, and the call ends in time."""
    begun = time.monotonic()
    with pytest.raises(CredentialsUnavailable, match=r"TIMEOUT, 0\.5 s"):
        running(program, TIMEOUT=0.5).fetch()
    assert time.monotonic() - begun < 5


def test_a_program_that_prints_without_end() -> None:
    """No more is kept than a login can be."""
    with pytest.raises(CredentialsInvalid, match=f"more than {MAX_OUTPUT} bytes"):
        running("while True: print('x' * 1000)").fetch()


def test_programs_that_cannot_run(tmp_path: Path) -> None:
    """Not there, or not to be run."""
    with pytest.raises(AdapterMisconfigured, match="no such program"):
        CommandAdapter.from_config({"COMMAND": [str(tmp_path / "none")]}).fetch()
    (tmp_path / "text").write_text("#!/bin/sh\n")
    with pytest.raises(CredentialsDenied, match="may not be run"):
        CommandAdapter.from_config({"COMMAND": [str(tmp_path / "text")]}).fetch()


def test_arguments_are_not_shown() -> None:
    """They may hold a secret."""
    reader = CommandAdapter.from_config({"COMMAND": ["/bin/false", "s3cret"]})
    assert repr(reader) == "<CommandAdapter false>"
    with pytest.raises(CredentialsUnavailable) as caught:
        reader.fetch()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("command", [None, "", "a b", [], [1], [""]])
def test_settings_that_are_wrong(command: Any) -> None:
    """A list of strings: nothing is split, as a shell would."""
    with pytest.raises(AdapterMisconfigured, match="COMMAND"):
        CommandAdapter.from_config({"COMMAND": command})
