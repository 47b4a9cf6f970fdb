"""The demo and the tests in the shell of somebody who uses other servers."""

from __future__ import annotations

import errno

import psycopg
import pytest

from channels_pg_secrets.demo.errors import DemoError
from channels_pg_secrets.demo.interrupts import Interrupts
from channels_pg_secrets.demo.launcher import Demo
from channels_pg_secrets.demo.progress import Progress
from pg_secrets.testing.process import forget_client_settings


class Undisturbed(Interrupts):
    """Leaves the signals of the test run as they are."""

    def ignore(self) -> None:
        pass


def test_settings_for_other_servers_are_forgotten() -> None:
    """What clients of PostgreSQL, Vault and HTTP read is deleted, and nothing else."""
    foreign = ["PGHOST", "PGSSLMODE", "VAULT_ADDR", "BAO_TOKEN", "http_proxy", "NO_PROXY"]
    kept = ["PATH", "PG_BIN", "TMPDIR", "MY_VAULT_ADDR"]
    environ = dict.fromkeys([*foreign, *kept], "x")
    forget_client_settings(environ)
    assert sorted(environ) == sorted(kept)


def demo(host: str, port: int = 8000) -> Demo:
    interrupts = Undisturbed()
    made = Demo(
        adapter="files",
        port=port,
        rotate_every=1,
        interrupts=interrupts,
        progress=Progress(interrupts),
    )
    made.host = host
    return made


def test_a_port_that_cannot_be_used_is_not_called_taken() -> None:
    """Only a port that somebody has is taken; any other trouble is said as it is."""
    with pytest.raises(DemoError, match="Port 8000 cannot be used") as caught:
        demo("192.0.2.1").__enter__()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRNOTAVAIL


def test_trouble_with_the_database_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PostgreSQL refuses while the demo starts ends it as any other trouble does."""

    def refuse(_demo: Demo) -> None:
        raise psycopg.OperationalError("no pg_hba.conf entry")

    monkeypatch.setattr(Demo, "_start", refuse)
    with pytest.raises(DemoError, match="PostgreSQL: no pg_hba"):
        demo("127.0.0.1").__enter__()
