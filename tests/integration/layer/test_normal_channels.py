"""Normal channels in the database: what is claimed, who is told of it, what is read for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.layer import supervisor

if TYPE_CHECKING:
    from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
    from pg_secrets.testing.database import FreshDatabase
    from tests.integration.layer.conftest import Layers

    Session = psycopg.Connection[tuple[Any, ...]]
    Eventually = Callable[..., Awaitable[Any]]

#: The node that claims, and the number of its claims.
NODE, CLAIM = 1, 7
#: Messages that wait in another channel, and were there first.
OTHERS = 3000
#: Held by whoever wants a claim to wait in its midst.
LOCK = 4711
FILL = """
    INSERT INTO channels_pg_secrets_queue (prefix, channel, expires, body)
    SELECT 'asgi', %s, now() + interval '1 hour', 'item' FROM generate_series(1, %s)
"""
ADD = """
    INSERT INTO channels_pg_secrets_queue (prefix, channel, expires, body)
    VALUES ('asgi', 'work', now() + interval '1 hour', %s)
"""
READ = """
    SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables
    WHERE relname = 'channels_pg_secrets_queue'
"""
CLAIM_TWO = "SELECT id, body FROM channels_pg_secrets_claim_v1('asgi', %s, 'work', %s, 2, %s, %s)"
REGISTER = "SELECT incarnation FROM channels_pg_secrets_register_v1('asgi', %s, 'c', '', '', 1, 1)"
HEARTBEAT = "SELECT epoch FROM channels_pg_secrets_heartbeat_v1(%s, 45)"
SETTLE = "SELECT channels_pg_secrets_settle_v1(%s, %s, %s, %s, %s, '{}')"
WAIT_IN_UPDATES = f"""
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock({LOCK}); RETURN NEW; END $$;
    CREATE TRIGGER hold BEFORE UPDATE ON channels_pg_secrets_queue
    FOR EACH ROW EXECUTE FUNCTION hold()
"""


@pytest.fixture
def sessions(own_database: FreshDatabase) -> Iterator[Callable[[], Session]]:
    """Opens sessions of the owner's, who may look at what they have read."""
    opened: list[Session] = []

    def open_session() -> Session:
        params = own_database.connection_params(own_database.owner)
        opened.append(psycopg.connect(**params, autocommit=True))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


def claim(session: Session, done: list[int] | None = None) -> list[tuple[Any, ...]]:
    """Claim two messages, and delete what was handed over."""
    done = done or []
    return session.execute(CLAIM_TWO, (NODE, CLAIM, done, [CLAIM] * len(done))).fetchall()


def bodies(database: FreshDatabase) -> list[str]:
    """What is in the queue."""
    return [body for (body,) in database.execute("SELECT body FROM channels_pg_secrets_queue")]


# What is claimed


async def test_two_messages_of_a_sender_are_not_turned_round(
    own_database: FreshDatabase, sessions: Callable[[], Session], eventually: Eventually
) -> None:
    """Messages that become visible while others are claimed do not overtake each other."""
    sender, worker, holder = sessions(), sessions(), sessions()
    own_database.execute(WAIT_IN_UPDATES)
    holder.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    with sender.transaction():
        sender.execute(ADD, ("first",))
        own_database.execute(ADD, ("another sender's",))
        sender.execute(ADD, ("second",))
        claiming = asyncio.create_task(asyncio.to_thread(claim, worker))
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await eventually(lambda: own_database.execute(waiting))
    holder.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    assert [body for _, body in await claiming] == ["another sender's", "first"]
    assert [body for _, body in claim(worker)] == ["second"]


def test_a_claim_waits_for_the_disk(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """What was claimed stays claimed in a crash; a claim that finds nothing need not wait."""
    session = sessions()
    for waits in ("on", "off"):
        if waits == "on":
            own_database.execute(ADD, ("item",))
        with session.transaction():
            assert len(claim(session)) == (waits == "on")
            assert session.execute("SHOW synchronous_commit").fetchone() == (waits,)


def test_a_row_that_a_ghost_deletes_holds_nobody_up(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """A deletion that was sent before, and has no end yet, is not waited for."""
    own_database.execute(FILL, ("work", 3))
    ghost, worker = sessions(), sessions()
    [(first, _), (second, _)] = claim(worker)
    with ghost.transaction(force_rollback=True):
        assert len(claim(ghost, [first])) == 1
        with worker.transaction():
            worker.execute("SET LOCAL lock_timeout = '5s'")
            assert claim(worker, [first, second]) == []
            worker.execute(SETTLE, (NODE, [first], [CLAIM], [], []))
    assert len(bodies(own_database)) == 2
    assert len(claim(worker, [first])) == 1
    assert len(bodies(own_database)) == 1


def test_a_sweep_passes_over_what_is_locked(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """A row that waits for a standby, or that somebody looks at, must not stop everybody."""
    holder, sweeper = sessions(), sessions()
    sweeper.execute(REGISTER, (NODE,))
    for name in ("locked", "free"):
        own_database.execute(ADD, (name,))
    own_database.execute(
        "INSERT INTO channels_pg_secrets_normal_member VALUES ('asgi', 'group', 'work', now(), 1)"
    )
    own_database.execute("UPDATE channels_pg_secrets_queue SET expires = now()")
    with holder.transaction(), sweeper.transaction():
        holder.execute("SELECT FROM channels_pg_secrets_queue WHERE body = 'locked' FOR UPDATE")
        holder.execute("SELECT FROM channels_pg_secrets_normal_member FOR UPDATE")
        sweeper.execute("SET LOCAL statement_timeout = '5s'")
        assert sweeper.execute(HEARTBEAT, (NODE,)).fetchone()
    assert bodies(own_database) == ["locked"]
    assert sweeper.execute(HEARTBEAT, (NODE,)).fetchone()
    assert bodies(own_database) == []
    assert own_database.execute("SELECT FROM channels_pg_secrets_normal_member") == []


def test_what_a_sweep_has_to_wait_for_holds_no_heartbeat_up(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """It is tried again with the next one."""
    holder, sweeper = sessions(), sessions()
    sweeper.execute(REGISTER, (NODE,))
    own_database.execute(ADD, ("expired",))
    own_database.execute("UPDATE channels_pg_secrets_queue SET expires = now()")
    with holder.transaction():
        holder.execute("SELECT FROM channels_pg_secrets_state FOR UPDATE")
        with sweeper.transaction():
            sweeper.execute("SET LOCAL statement_timeout = '5s'")
            assert sweeper.execute(HEARTBEAT, (NODE,)).fetchone()
        assert bodies(own_database) == ["expired"]
    assert sweeper.execute(HEARTBEAT, (NODE,)).fetchone()
    assert bodies(own_database) == []


def test_what_comes_after_its_node_has_left_is_not_queued_twice(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """A node in doubt about a batch sends it again, perhaps when it has just left."""
    session = sessions()
    incarnation = session.execute(REGISTER, (NODE,)).fetchone()
    assert incarnation is not None
    publish = """
        SELECT status FROM channels_pg_secrets_publish_v1('asgi', %s, %s, 0, %s, 60, 60, 60,
            '{NULL}', '{NULL}', '{work}', '{100}', '{item}', '{NULL}')
    """
    for retry in (False, True):
        assert session.execute(publish, (NODE, *incarnation, retry)).fetchone() == (0,)
        session.execute("SELECT channels_pg_secrets_deregister_v1(%s)", (NODE,))
    assert bodies(own_database) == ["item"]


def test_what_puts_a_normal_channel_into_a_group_waits_for_no_standby(
    own_database: FreshDatabase, sessions: Callable[[], Session]
) -> None:
    """It holds the row of its node until then; on this server it survives a crash."""
    session = sessions()
    incarnation = session.execute(REGISTER, (NODE,)).fetchone()
    assert incarnation is not None
    members = """
        SELECT status FROM channels_pg_secrets_members_v1('asgi', %s, %s, %s, 60, 60,
            '{group}', %s, '{true}', '{0}', '{1}')
    """
    for version, (channel, waits) in enumerate([("", "off"), ("work", "local")], start=1):
        with session.transaction():
            values = (NODE, *incarnation, version, [channel])
            assert session.execute(members, values).fetchone() == (0,)
            assert session.execute("SHOW synchronous_commit").fetchone() == (waits,)


# Who is told of it


async def _by_a_batch(layer: PostgresChannelLayer, database: FreshDatabase) -> None:
    await asyncio.gather(*(layer.send(name, {"type": "test"}) for name in ("mail", "work")))


async def _by_sql(layer: PostgresChannelLayer, database: FreshDatabase) -> None:
    send = 'SELECT channels_pg_secrets_send_v1(%s, \'{"type": "test"}\', %s)'
    for name in ("mail", "work"):
        database.execute(send, (name, layer.prefix))


async def _to_a_group(layer: PostgresChannelLayer, database: FreshDatabase) -> None:
    for name in ("mail", "work"):
        await layer.group_add("group", name)
    await layer.group_send("group", {"type": "test"})


async def _to_a_group_by_sql(layer: PostgresChannelLayer, database: FreshDatabase) -> None:
    for name in ("mail", "work"):
        await layer.group_add("group", name)
    send = "SELECT channels_pg_secrets_group_send_v1('group', '{\"type\": \"test\"}', %s)"
    database.execute(send, (layer.prefix,))


async def _by_giving_back(layer: PostgresChannelLayer, database: FreshDatabase) -> None:
    claimed = """
        INSERT INTO channels_pg_secrets_queue (prefix, channel, expires, body, claimed_by, claim)
        SELECT %s, name, now() + interval '1 hour',
            'jc' || name || ' ' || encode('{"type": "test"}', 'base64'), %s, %s
        FROM unnest('{mail,work}'::text[]) name RETURNING id
    """
    rows = [row for (row,) in database.execute(claimed, (layer.prefix, NODE, CLAIM))]
    database.execute(SETTLE, (NODE, [], [], rows, [CLAIM, CLAIM]))


@pytest.mark.parametrize(
    "send", [_by_a_batch, _by_sql, _to_a_group, _to_a_group_by_sql, _by_giving_back]
)
async def test_whoever_waits_is_told(
    own_layers: Layers,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[[PostgresChannelLayer, FreshDatabase], Awaitable[None]],
) -> None:
    """Readers of all channels hear of a message at once, not when they look by themselves."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 600.0)
    sender, worker = own_layers(), own_layers()
    receiving = [asyncio.create_task(worker.receive(name)) for name in ("mail", "work")]
    readers = "SELECT count(*) FROM channels_pg_secrets_reader"
    await eventually(lambda: own_layers.database.execute(readers) == [(2,)])
    await sender.group_add("other", await sender.new_channel())
    await send(sender, own_layers.database)
    assert await asyncio.wait_for(asyncio.gather(*receiving), 5.0) == [{"type": "test"}] * 2


# What is read for it


def work(session: Session, number: int) -> int:
    """Send, claim, delete and give back some messages; return how many were claimed."""
    done: list[int] = []
    claimed = 0
    for _ in range(number):
        session.execute("SELECT channels_pg_secrets_send_v1('work', '{}', p_capacity => 1000)")
        done = [row for row, _ in claim(session, done)]
        claimed += len(done)
    session.execute(SETTLE, (NODE, done[:1], [CLAIM], done[1:], [CLAIM] * len(done[1:])))
    return claimed


@pytest.mark.parametrize("before", [0, 500])
def test_only_what_is_wanted_is_read(
    own_database: FreshDatabase, sessions: Callable[[], Session], before: int
) -> None:
    """Thousands in another channel are not looked at, whatever there was when it was planned."""
    session = sessions()
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
