"""The chain adapter: which of several places is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.chain import ChainAdapter
from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract

FIRST = Credentials(user="first", password="pw-1")
SECOND = Credentials(user="second", password="pw-2")


class TestContract(CredentialAdapterContract):
    """What all adapters keep; here the first place has nothing."""

    @pytest.fixture(autouse=True)
    def _places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NOT_SET", raising=False)
        monkeypatch.setenv("CHAINED", "s3cret")

    def make_adapter(self) -> ChainAdapter:
        first = {"ADAPTER": "env", "PASSWORD": "NOT_SET"}
        return ChainAdapter.from_config(
            {"ADAPTERS": [first, {"ADAPTER": "env", "PASSWORD": "CHAINED"}]}
        )

    def expected(self) -> Mapping[str, Any]:
        return {"password": "s3cret"}


class TestUnreachable(UnreachableStoreContract):
    """Nothing anywhere."""

    def make_unreachable(self) -> ChainAdapter:
        return ChainAdapter.from_config(
            {"ADAPTERS": [{"ADAPTER": "files", "PATH": "/nonexistent/login"}]}
        )


def scripted(*answers: Credentials | CredentialsError) -> ScriptedAdapter:
    return ScriptedAdapter(answers)


def test_the_first_that_has_something() -> None:
    """Those behind it are not asked."""
    behind = scripted(SECOND)
    chain = ChainAdapter([scripted(FIRST), behind])
    assert chain.fetch().user == "first"
    assert behind.fetches == 0


def test_nothing_leads_on() -> None:
    """What is not there is passed over."""
    chain = ChainAdapter([scripted(CredentialsNotFound("no variable")), scripted(SECOND)])
    assert chain.fetch().user == "second"


@pytest.mark.parametrize("kind", [CredentialsDenied, CredentialsUnavailable, CredentialsInvalid])
def test_any_other_error_does_not(kind: type[CredentialsError]) -> None:
    """Another place might hold another identity's login."""
    behind = scripted(SECOND)
    chain = ChainAdapter([scripted(kind("not now")), behind])
    with pytest.raises(kind, match="not now"):
        chain.fetch()
    assert behind.fetches == 0


def test_it_stays_with_whom_it_found() -> None:
    """Also when there is nothing any more, and when an earlier one has something by then."""
    first = scripted(CredentialsNotFound("none"), FIRST)
    second = scripted(SECOND, CredentialsNotFound("gone"))
    chain = ChainAdapter([first, second])
    assert chain.fetch().user == "second"
    with pytest.raises(CredentialsNotFound, match="gone"):
        chain.fetch()
    assert first.fetches == 1


def test_everything_else_goes_to_whom_it_found() -> None:
    """Renewing, giving back and hearing of rejections are his affairs."""
    leased = FIRST.replace(lease=Lease("id", 60.0, renewable=True))
    adapter = scripted(leased)
    chain = ChainAdapter([scripted(CredentialsNotFound("none")), adapter])
    fetched = chain.fetch()
    assert chain.renew(fetched) == adapter.renew(fetched)
    chain.revoke(fetched)
    assert adapter.revoked


def test_when_there_is_nothing_anywhere() -> None:
    """All that was looked for is named."""
    chain = ChainAdapter(
        [scripted(CredentialsNotFound("no A")), scripted(CredentialsNotFound("no B"))]
    )
    with pytest.raises(CredentialsNotFound, match="no A; no B"):
        chain.fetch()


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (None, "ADAPTERS: is required"),
        ([], "ADAPTERS"),
        ("env", "ADAPTERS"),
        ([3], "number 1 is neither"),
        (["env", "envv"], "number 2: .*Did you mean"),
        ([{"ADAPTER": "env", "TTL": 3}], "number 1 has TTL"),
        ([{"ADAPTER": "env", "PASWORD": "X"}], "number 1: .*PASWORD"),
    ],
)
def test_settings_that_are_wrong(entries: Any, text: str, tmp_path: Path) -> None:
    """The error names which of them."""
    with pytest.raises(AdapterMisconfigured, match=text):
        ChainAdapter.from_config({"ADAPTERS": entries})
