"""The adapter held to the contract; run it with ``pytest test_team_safe.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from team_safe import TeamSafeAdapter

from pg_secrets import (
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer

LOGIN = {"user": "app", "password": "correct horse", "version": "7"}


@pytest.fixture
def safe() -> Iterator[ScriptedHttpServer]:
    """A server that answers as the safe does."""
    with ScriptedHttpServer() as server:
        server.script("GET", "/secrets/app", HttpAnswer(200, LOGIN))
        yield server


@pytest.fixture
def team_safe(safe: ScriptedHttpServer, tmp_path: Path) -> TeamSafeAdapter:
    """An adapter whose safe answers."""
    return made(safe.address, tmp_path)


def made(address: str, folder: Path) -> TeamSafeAdapter:
    """Return an adapter built from settings, as it will be in a project."""
    token = folder / "token"
    token.write_text("token\n")
    return TeamSafeAdapter.from_config(
        {"ADDRESS": address, "SECRET": "app", "TOKEN_FILE": str(token), "TIMEOUT": 2}
    )


class TestTeamSafe(CredentialAdapterContract):
    """All that every adapter has to do."""

    @pytest.fixture(autouse=True)
    def _answering(self, team_safe: TeamSafeAdapter) -> None:
        self.team_safe = team_safe

    def make_adapter(self) -> TeamSafeAdapter:
        return self.team_safe

    def expected(self) -> dict[str, str]:
        return {"user": "app", "password": "correct horse"}


class TestTeamSafeAway(UnreachableStoreContract):
    """What happens while the safe is away."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_unreachable(self) -> TeamSafeAdapter:
        return made("http://127.0.0.1:1", self.folder)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HttpAnswer(403), CredentialsDenied),
        (HttpAnswer(404), CredentialsNotFound),
        (HttpAnswer(503), CredentialsUnavailable),
        (HttpAnswer(200, "not JSON"), CredentialsInvalid),
        (HttpAnswer(200, {"user": "app"}), CredentialsInvalid),
        (HttpAnswer(200, ["correct horse"]), CredentialsInvalid),
    ],
)
def test_each_answer_is_one_error_of_the_family(
    safe: ScriptedHttpServer,
    team_safe: TeamSafeAdapter,
    answer: HttpAnswer,
    expected: type[CredentialsError],
) -> None:
    """Whatever the safe answers becomes the right error, without the password in its text."""
    safe.script("GET", "/secrets/app", answer)
    with pytest.raises(expected) as caught:
        team_safe.fetch()
    assert "correct horse" not in str(caught.value)
