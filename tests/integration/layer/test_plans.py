"""What PostgreSQL reads of the queue, with the plans that a session made when it was new."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from pg_secrets.testing.database import FreshDatabase

    Session = psycopg.Connection[tuple[Any, ...]]

#: The node that claims, and the number of its claims.
NODE, CLAIM = 1, 7
#: Messages that wait in another channel, and were there first.
OTHERS = 3000
FILL = """
    INSERT INTO channels_pg_secrets_queue (prefix, channel, expires, body)
    SELECT 'asgi', %s, now() + interval '1 hour', 'item' FROM generate_series(1, %s)
"""
READ = """
    SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables
    WHERE relname = 'channels_pg_secrets_queue'
"""


@pytest.fixture
def session(own_database: FreshDatabase) -> Iterator[Session]:
    """A session of the owner's, who may look at what it has read."""
    login = own_database.connection_params(own_database.owner)
    with psycopg.connect(**login, autocommit=True) as connection:
        yield connection


def work(session: Session, number: int) -> int:
    """Send, claim, delete and give back some messages; return how many were claimed."""
    done: list[int] = []
    claimed = 0
    for _ in range(number):
        session.execute("SELECT channels_pg_secrets_send_v1('work', '{}', p_capacity => 1000)")
        query = "SELECT id FROM channels_pg_secrets_claim_v1('asgi', %s, 'work', %s, 2, %s, %s)"
        values = (NODE, CLAIM, done, [CLAIM] * len(done))
        done = [row for (row,) in session.execute(query, values)]
        claimed += len(done)
    settle = "SELECT channels_pg_secrets_settle_v1(%s, %s, %s, %s, %s, '{}')"
    session.execute(settle, (NODE, done[:1], [CLAIM], done[1:], [CLAIM] * len(done[1:])))
    return claimed


@pytest.mark.parametrize("before", [0, 500])
def test_only_what_is_wanted_is_read(
    session: Session, own_database: FreshDatabase, before: int
) -> None:
    """Thousands in another channel are not looked at, whatever there was when it was planned."""
    if before:
        own_database.execute(FILL, ("work", before))
    own_database.execute("ANALYZE channels_pg_secrets_queue")
    assert work(session, 10) == (20 if before else 10)
    own_database.execute("DELETE FROM channels_pg_secrets_queue")
    for channel, number in (("work", 1), ("others", OTHERS), ("work", 19)):
        own_database.execute(FILL, (channel, number))
    with session.transaction():
        assert work(session, 5) == 10
        read = session.execute(READ).fetchone()
    assert read is not None
    sequentially, fetched = read
    assert sequentially == 0
    assert fetched < OTHERS / 2
    left = "SELECT count(*) FROM channels_pg_secrets_queue WHERE channel = 'work'"
    assert own_database.execute(left) == [(16,)]
