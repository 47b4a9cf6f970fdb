"""Credentials that a program prints: a helper of your own, or one that speaks ExecCredential."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.fields import DOCUMENT_KEYS, FieldMap, login
from pg_secrets.options import Options
from pg_secrets.redaction import stripping

TIMEOUT = 10.0
#: Bytes that a program may print; a login is far smaller.
MAX_OUTPUT = 64 * 1024
_EXEC_KIND = "ExecCredential"


class CommandAdapter(CredentialAdapter):
    """Runs a program and reads the JSON object that it prints.

    ``COMMAND`` (list of strings)
        The program and its arguments. No shell is involved. It inherits the environment and the
        working directory, reads nothing, and may print at most 64 KiB.
    ``TIMEOUT`` (seconds, default 10)
        After that it is killed, with all it has started.
    ``FIELDS`` (mapping of libpq keywords to the object's keys)
        What to take. By default ``username`` or ``user``, ``password``, and where they are there
        ``host``, ``port``, ``dbname`` or ``database``.

    What it prints is either such an object, which may also have ``expires_at`` (RFC 3339, or
    seconds since the epoch) or ``expires_in`` (seconds), or Kubernetes' ``ExecCredential``
    (client.authentication.k8s.io/v1): then ``status.token`` is the password, and
    ``status.expirationTimestamp`` its end.

    Neither what it prints nor its arguments are ever shown. Safe to use from several threads, one
    call at a time, and after a fork.
    """

    name: ClassVar[str] = "command"

    def __init__(
        self,
        command: Sequence[str],
        *,
        fields: FieldMap | None = None,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._command = list(command)
        self._fields = fields or FieldMap(keys=DOCUMENT_KEYS)
        self._timeout = timeout
        self._clock = clock

    def __repr__(self) -> str:
        return f"<CommandAdapter {self._program}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, clock: Callable[[], float] = time.time
    ) -> CommandAdapter:
        """Build from settings; nothing is run.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
        """
        options = Options(config, adapter="command")
        command = options.texts("COMMAND")
        fields = FieldMap.from_options(options)
        timeout = options.seconds("TIMEOUT", TIMEOUT, minimum=0.05, maximum=300)
        options.finish()
        return cls(command, fields=fields, timeout=timeout, clock=clock)

    @stripping
    def fetch(self) -> Credentials:
        """Run the program and read what it prints.

        Raises:
            CredentialsUnavailable: it failed, or took too long; try again.
            CredentialsInvalid: it printed too much, or nothing that is a login.
            CredentialsDenied: it may not be run.
            AdapterMisconfigured: there is no such program.
        """
        started = self._clock()
        output = self._run()
        place = f"what {self._program} printed"
        try:
            document = json.loads(output)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CredentialsInvalid(f"{place}: it is no JSON object")
        if document.get("kind") == _EXEC_KIND:
            return _exec_credential(document, place)
        found = self._fields.pick(document, place)
        return found.replace(expires_at=_end(document, started, place))

    @property
    def _program(self) -> str:
        return os.path.basename(self._command[0])  # noqa: PTH119 - a name, of no file in particular

    def _run(self) -> bytes:
        try:
            process = subprocess.Popen(  # noqa: S603 - what to run is the operator's to say
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise self._error(AdapterMisconfigured, "there is no such program") from None
        except PermissionError:
            raise self._error(CredentialsDenied, "it may not be run") from None
        except (OSError, ValueError) as error:
            why = f"it cannot be run ({type(error).__name__})"
            raise self._error(CredentialsUnavailable, why) from None
        with process:
            try:
                output = self._output(process)
            except BaseException:
                # An interrupt included: nobody else would end it, and leaving waits for its end.
                _kill(process)
                raise
        if process.returncode != 0:
            ended = f"it ended with status {process.returncode}"
            raise self._error(CredentialsUnavailable, ended)
        return output

    def _output(self, process: subprocess.Popen[bytes]) -> bytes:
        # Not communicate(): that would keep whatever comes, however much.
        assert process.stdout is not None  # noqa: S101  (it is a pipe)
        deadline = time.monotonic() + self._timeout
        output = b""
        while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(process.stdout.fileno(), MAX_OUTPUT)
            output += chunk
            if len(output) > MAX_OUTPUT:
                raise self._error(CredentialsInvalid, f"it printed more than {MAX_OUTPUT} bytes")
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                    return output
                break
        late = f"it did not end in time (TIMEOUT, {self._timeout:g} s)"
        raise self._error(CredentialsUnavailable, late)

    def _error(self, kind: type[Exception], why: str) -> Exception:
        return kind(f"adapter 'command', {self._program}: {why}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    # All it has started: a child that keeps the pipe open would keep us waiting.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _exec_credential(document: Mapping[str, Any], place: str) -> Credentials:
    status = document.get("status")
    if not isinstance(status, dict) or not status.get("token"):
        raise CredentialsInvalid(f"{place}: the ExecCredential has no status.token")
    found = login({"password": status["token"]}, place)
    end = status.get("expirationTimestamp")
    return found.replace(expires_at=None if end is None else _moment(end, place))


def _end(document: Mapping[str, Any], started: float, place: str) -> float | None:
    moment, seconds = document.get("expires_at"), document.get("expires_in")
    if moment is not None:
        return _moment(moment, place)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds <= 0:
        raise CredentialsInvalid(f"{place}: expires_in is no number of seconds")
    return started + seconds


def _moment(value: Any, place: str) -> float:
    """Return epoch seconds of an RFC 3339 time or a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        # Before 3.11 fromisoformat knows no "Z".
        when = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        raise CredentialsInvalid(f"{place}: its end is no RFC 3339 time") from None
    return when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp()
