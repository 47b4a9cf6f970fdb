"""The contract of adapters, kept by env and files in each of their forms."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.env import EnvAdapter
from pg_secrets.files import FilesAdapter
from pg_secrets.testing.contract import CredentialAdapterContract, UnreachableStoreContract
from pg_secrets.vault import VaultAdapter

JSON = '{"username": "app", "password": "s3cret", "host": "db"}'
LOGIN = {"user": "app", "password": "s3cret"}


class TestEnvVariables(CredentialAdapterContract):
    def make_adapter(self) -> EnvAdapter:
        return EnvAdapter.from_config({}, environ={"PGUSER": "app", "PGPASSWORD": "s3cret"})

    def expected(self) -> Mapping[str, Any]:
        return LOGIN


class TestEnvJson(CredentialAdapterContract):
    def make_adapter(self) -> EnvAdapter:
        return EnvAdapter.from_config({"JSON": "SECRET"}, environ={"SECRET": JSON})

    def expected(self) -> Mapping[str, Any]:
        return LOGIN | {"host": "db"}


class _WithDirectory(CredentialAdapterContract):
    directory: Path

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def expected(self) -> Mapping[str, Any]:
        return LOGIN


class TestFilesDirectory(_WithDirectory):
    def make_adapter(self) -> FilesAdapter:
        (self.directory / "username").write_text("app\n")
        (self.directory / "password").write_text("s3cret\n")
        return FilesAdapter.from_config({"DIRECTORY": self.directory})


class TestFilesKubernetes(_WithDirectory):
    def make_adapter(self) -> FilesAdapter:
        state = self.directory / "..2026_01_01"
        state.mkdir()
        (state / "username").write_text("app")
        (state / "password").write_text("s3cret")
        (self.directory / "..data").symlink_to(state.name)
        return FilesAdapter.from_config({"DIRECTORY": str(self.directory)})


class TestFilesUrl(_WithDirectory):
    def make_adapter(self) -> FilesAdapter:
        (self.directory / "url").write_text("postgresql://app:s3cret@db/chat")
        return FilesAdapter.from_config({"PATH": self.directory / "url"})


class TestEnvUnset(UnreachableStoreContract):
    def make_unreachable(self) -> EnvAdapter:
        return EnvAdapter.from_config({}, environ={})


class TestFilesMissing(UnreachableStoreContract):
    def make_unreachable(self) -> FilesAdapter:
        return FilesAdapter.from_config({"DIRECTORY": "/does/not/exist"})


class TestVaultAway(UnreachableStoreContract):
    def make_unreachable(self) -> VaultAdapter:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"
        auth = {"METHOD": "token", "TOKEN": "any"}
        return VaultAdapter.from_config({"ADDRESS": address, "AUTH": auth, "ROLE": "app"})
