"""Wrong and hostile payloads, in notifications and in the tables, under load."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.chaos.load import Limits

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

#: Payloads of each kind in one strike.
MANY = 10
NODE = "SELECT channel FROM channels_pg_secrets_node WHERE to_hex(id) = ltrim(%s, '0')"
ROW = """
    INSERT INTO channels_pg_secrets_message_{} (node, sender, seq, expires, body)
    SELECT id, %s, 1, clock_timestamp() + interval '1 minute', %s FROM channels_pg_secrets_node
    WHERE prefix = %s
"""
QUEUED = """
    INSERT INTO channels_pg_secrets_queue (prefix, channel, expires, body, blob)
    VALUES (%s, 'work', clock_timestamp() + interval '1 minute', %s, %s)
"""
#: A member whose node is not there, as after a crash.
GHOST = """
    INSERT INTO channels_pg_secrets_member (prefix, grp, node, expires)
    VALUES (%s, 'g', %s, clock_timestamp() + interval '1 minute')
"""
SEND = "SELECT channels_pg_secrets_send_v1(%s, %s::jsonb, %s)"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"


def payloads(node: str, channel: str) -> list[str]:
    """Return what a stranger who knows the names might notify."""
    return [
        "",
        "x",
        "\u00e4" * 30,
        "x" * 7999,
        f"{'A' * 20}{node} ffffff c{channel} gaR0eXBlpmZvcmdlZA==",
        f"{'A' * 20}0 0 f999999",
        f"{node} 1 w",
    ]


async def test_forged_notifications(chaos: Chaos) -> None:
    """Notifications that are not ours are skipped, and said once."""
    limits = replace(chaos.unnoticed, lines=3 / chaos.times())  # once, and once a minute
    async with chaos.load("forged notifications", limits=limits) as load:

        async def strike() -> None:
            with chaos.database.server.connect(chaos.database.name) as connection:
                for name in ("b", "c"):
                    node = await load("node", name)
                    ((notify_channel,),) = connection.execute(NODE, (node,)).fetchall()
                    for payload in MANY * payloads(node, load.targets[name]):
                        connection.execute("SELECT pg_notify(%s, %s)", (notify_channel, payload))

        await load.strike(strike, chaos.times())


def put_garbage(chaos: Chaos, channel: str) -> None:
    """Put what nobody can read where messages are read from, ``channel`` being one of them."""
    prefix = chaos.place.prefix
    # Numbers that no sender has, but for a chance that is none.
    sender = secrets.randbits(62)
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    with chaos.database.server.connect(chaos.database.name) as connection:
        bodies = ("", "x", "c", "g !", "c! =", f"c{channel} AA==", ",,")
        for number, body in enumerate(bodies):
            for table in range(3):
                values = (sender + 3 * number + table, body, prefix)
                connection.execute(ROW.format(table).encode(), values)
        for body in ("", "x", f"c{channel} AA==", "cwork !!", "jcwork AA=="):
            connection.execute(QUEUED, (prefix, body, None))
        connection.execute(QUEUED, (prefix, "Cwork", b"\xc1"))
        connection.execute(GHOST, (prefix, sender))
        for name in MANY * (channel, "work"):
            connection.execute(SEND, (name, deep, prefix))


async def test_garbage_in_the_tables(chaos: Chaos) -> None:
    """Rows that nobody can read are skipped, when they come and when they are read again."""
    # Beside the lines of two lost connections.
    async with chaos.load("garbage in the tables", limits=Limits(lines=8)) as load:

        async def strike() -> None:
            await asyncio.to_thread(put_garbage, chaos, load.targets["b"])
            assert len(chaos.database.execute(TERMINATE, (chaos.place.login.user,))) >= 6

        await load.strike(strike, chaos.times())
