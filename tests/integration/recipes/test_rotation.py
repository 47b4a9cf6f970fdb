"""What every recipe for PostgreSQL does when the login changes."""

from __future__ import annotations

from pg_secrets import CredentialSource
from pg_secrets.testing.database import FreshDatabase
from tests.integration.recipes.conftest import (
    Ask,
    RolesOnLease,
    sessions,
    wait_until,
)


def test_planned_rotation_is_not_noticed(
    ask: Ask, source: CredentialSource, store: RolesOnLease, database: FreshDatabase
) -> None:
    """After a rotation the next question is asked as the new user, and the old role goes."""
    first = ask()
    source.refresh()
    second = ask()
    assert second == source.get().user != first
    store.wait_for(lambda: [gone.user for gone in store.revoked] == [first])
    assert ask() == second
    refused = f'authentication failed for user "{first}"'
    assert refused not in database.server.log_tail(100_000)


def test_user_that_is_dropped_at_once_is_replaced(
    ask: Ask, source: CredentialSource, store: RolesOnLease
) -> None:
    """When a role and its sessions end before the source knows, the next question is answered."""
    first = ask()
    store.end(source.get())
    assert ask() == source.get().user != first
    assert source.stats()["rejections"] == 1


def test_password_that_is_changed_is_fetched(
    ask: Ask, source: CredentialSource, store: RolesOnLease, database: FreshDatabase
) -> None:
    """When a user's password was changed and his sessions were ended, he is let in again."""
    user = ask()
    store.ended.add(user)  # he stays when the lease that made him is given back
    store.then(database.credentials(database.set_password(user)))
    database.terminate(user)
    wait_until(lambda: sessions(database, user) == 0)
    assert ask() == user
    assert source.generation == 2
