from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import ANY

import pytest

from pg_secrets import CredentialAdapter, Credentials, CredentialsUnavailable
from pg_secrets.testing.adapter import ScriptedAdapter, leases
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract


class TestStatic(CredentialAdapterContract, UnreachableStoreContract):
    def make_adapter(self) -> CredentialAdapter:
        return ScriptedAdapter()

    def expected(self) -> Mapping[str, Any]:
        return {"user": "app", "password": "secret-1"}

    def make_unreachable(self) -> CredentialAdapter:
        return ScriptedAdapter(CredentialsUnavailable("away"))


class TestLeased(CredentialAdapterContract):
    def make_adapter(self) -> CredentialAdapter:
        return ScriptedAdapter(leases())

    def expected(self) -> Mapping[str, Any]:
        return {"user": ANY, "password": ANY}


def test_contract_notices_the_wrong_password() -> None:
    """An adapter that brings something else fails the suite."""
    with pytest.raises(AssertionError):
        TestStatic().test_fetches_what_is_expected(Credentials(user="app", password="other"))


def test_contract_notices_a_stamp() -> None:
    """An adapter that numbers generations itself fails the suite."""
    with pytest.raises(AssertionError):
        TestStatic().test_leaves_the_stamp_to_the_source(Credentials(generation=1))
