"""The contract of adapters, kept by vault with each kind of secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import ANY

import pytest

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.shared_lease import SharedAdapter
from pg_secrets.testing.contract import CredentialAdapterContract
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.secrets_engine import DatabaseSecretsEngine
from pg_secrets.vault import VaultAdapter


class _Database(CredentialAdapterContract):
    engine: DatabaseSecretsEngine
    role: ClassVar[Mapping[str, Any]]

    @pytest.fixture(autouse=True)
    def _engine(self, vault_database: DatabaseSecretsEngine) -> None:
        self.engine = vault_database

    def make_adapter(self) -> CredentialAdapter:
        openbao = self.engine.openbao
        auth = {"METHOD": "token", "TOKEN": openbao.root_token}
        where = {"ADDRESS": openbao.address, "MOUNT": self.engine.mount, "AUTH": auth}
        return VaultAdapter.from_config({**where, **self.role})


class TestDynamicRole(_Database):
    role: ClassVar[Mapping[str, Any]] = {"ROLE": "dynamic"}

    def expected(self) -> Mapping[str, Any]:
        return {"user": ANY, "password": ANY}


class TestSharedRole(_Database):
    """The dynamic role once more, its lease shared by way of a folder."""

    role: ClassVar[Mapping[str, Any]] = {"ROLE": "dynamic"}
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "shared"
        self.folder.mkdir(mode=0o700)

    def make_adapter(self) -> SharedAdapter:
        return SharedAdapter(super().make_adapter(), self.folder, "key")

    def expected(self) -> Mapping[str, Any]:
        return {"user": ANY, "password": ANY}


class TestStaticRole(_Database):
    role: ClassVar[Mapping[str, Any]] = {"STATIC_ROLE": "static"}

    def expected(self) -> Mapping[str, Any]:
        login = self.engine.static_login("static")
        return {"user": login.user, "password": login.password}


class TestKeyValue(CredentialAdapterContract):
    openbao: OpenBaoServer

    @pytest.fixture(autouse=True)
    def _openbao(self, openbao: OpenBaoServer) -> None:
        self.openbao = openbao

    def make_adapter(self) -> VaultAdapter:
        client = self.openbao.client()
        secret = {"username": "app", "password": "s3cret", "host": "db"}
        client.secrets.kv.v2.create_or_update_secret("contract", secret=secret)
        client.adapter.close()
        auth = {"METHOD": "token", "TOKEN": self.openbao.root_token}
        config = {"ADDRESS": self.openbao.address, "KV": "contract", "AUTH": auth}
        return VaultAdapter.from_config(config)

    def expected(self) -> Mapping[str, Any]:
        return {"user": "app", "password": "s3cret", "host": "db"}
