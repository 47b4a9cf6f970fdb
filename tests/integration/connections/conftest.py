"""A login, a store that has it, and a source that follows the store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pg_secrets import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase, Login


@pytest.fixture
def login(database: FreshDatabase) -> Login:
    return database.login()


@pytest.fixture
def adapter(database: FreshDatabase, login: Login) -> ScriptedAdapter:
    """A store that has the login's password."""
    return ScriptedAdapter(database.credentials(login))


@pytest.fixture
def source(adapter: ScriptedAdapter) -> Iterator[CredentialSource]:
    made = CredentialSource(adapter)
    yield made
    made.close()
