"""symmetric_encryption_keys: what travels and rests between processes cannot be read."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsUnavailable
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Stream

    Soon = Callable[..., Awaitable[dict[str, Any]]]
    Eventually = Callable[..., Awaitable[Any]]

SECRET = "a plain text that nobody else should see"
LARGE = {"type": "test", "text": SECRET * 500}
SMALL = {"type": "test", "text": SECRET}


async def send_everywhere(layers: Layers, soon: Soon, **options: Any) -> None:
    """Send small and large messages to a channel, a normal channel and a group."""
    await send_everywhere_between(layers(**options), layers(**options), soon)


async def send_everywhere_between(here: Any, there: Any, soon: Soon) -> None:
    """Do so from one layer to another."""
    channel = await there.new_channel()
    await there.group_add("group", channel)
    await there.group_add("group", "member")
    for message in (SMALL, LARGE):
        await here.send(channel, message)
        await here.group_send("group", message)
        await here.send("normal", message)
        for name in (channel, channel, "member"):
            assert await soon(there, name) == message


def stored(layers: Layers) -> tuple[int, bytes]:
    """Return how many rows there are and all that they hold, base64 undone."""
    rows: list[tuple[str | None, bytes | None]] = []
    for table in ("message_0", "message_1", "message_2", "queue"):
        query = f"SELECT body, blob FROM channels_pg_secrets_{table}"
        rows += layers.database.execute(query)
    text = "SELECT decode(%s, 'base64')"
    held = b""
    for body, blob in rows:
        for item in (body or "").split(","):
            _, _, encoded = item.partition(" ")
            if item[:1] in "cg" and encoded:
                held += bytes(layers.database.execute(text, (encoded,))[0][0])
        held += bytes(blob or b"")
    return len(rows), held


async def test_the_database_holds_no_plain_text(own_layers: Layers, soon: Soon) -> None:
    """With keys, no table holds anything of a message's content."""
    await send_everywhere(own_layers, soon, symmetric_encryption_keys=["key"])
    rows, held = stored(own_layers)
    assert rows >= 6
    assert SECRET.encode() not in held


async def test_without_keys_the_database_holds_the_content(own_layers: Layers, soon: Soon) -> None:
    """Without keys the tables hold the content as it is, so that the test above can fail."""
    await send_everywhere(own_layers, soon)
    _, held = stored(own_layers)
    assert held.count(SECRET.encode()) > 500


async def test_a_listener_reads_no_plain_text(layers: Layers, soon: Soon) -> None:
    """With keys, no notification carries a message's content."""
    here = layers(symmetric_encryption_keys=["key"])
    there = layers(symmetric_encryption_keys=["key"])
    channel = await there.new_channel()
    database = layers.database
    query = "SELECT channel FROM channels_pg_secrets_node WHERE prefix = %s"
    channels = [name for (name,) in database.execute(query, (layers.prefix,))]
    params = database.server.connection_params(database.name)
    async with await psycopg.AsyncConnection.connect(**params, autocommit=True) as spy:
        for name in channels:
            await spy.execute(f'LISTEN "{name}"'.encode())
        await here.send(channel, {"type": "test", "number": 7})
        await soon(there, channel)
        payloads = [notify.payload async for notify in spy.notifies(timeout=5, stop_after=1)]
    assert len(payloads) == 1
    assert "Z0FBQUFB" in payloads[0]  # base64 of "gAAAAA", with which every Fernet token begins


async def test_keys_are_rotated_in_two_steps(layers: Layers, soon: Soon) -> None:
    """Processes with [new, old] and with [old] understand each other's old and [new] the rest."""
    before = layers(symmetric_encryption_keys=["old"])
    between = layers(symmetric_encryption_keys=["new", "old"])
    after = layers(symmetric_encryption_keys=["new"])
    for sender, receiver in ((before, between), (between, after), (after, between)):
        channel = await receiver.new_channel()
        for message in (SMALL, LARGE):
            await sender.send(channel, message)
            assert await soon(receiver, channel) == message


@pytest.mark.parametrize("normal", [False, True], ids=["own", "normal"])
@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["small", "large"])
async def test_a_message_under_a_wrong_key_is_skipped(
    layers: Layers,
    soon: Soon,
    caplog: pytest.LogCaptureFixture,
    normal: bool,
    message: dict[str, Any],
) -> None:
    """What no key opens is logged, without its content, and the next message is delivered."""
    stranger = layers(symmetric_encryption_keys=["other"])
    friend = layers(symmetric_encryption_keys=["key"])
    receiver = layers(symmetric_encryption_keys=["key"])
    channel = "normal" if normal else await receiver.new_channel()
    await stranger.send(channel, message)
    await friend.send(channel, {"type": "readable"})
    assert await soon(receiver, channel) == {"type": "readable"}
    records = [r for r in caplog.records if r.name.startswith("channels_pg_secrets")]
    told = [r for r in records if r.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "symmetric_encryption_keys" in logging.Formatter().format(told[0])
    assert SECRET not in caplog.text


async def test_layers_with_and_without_keys_do_not_mix(layers: Layers, soon: Soon) -> None:
    """A layer with keys drops what comes unencrypted from another process."""
    plain, sealed = layers(), layers(symmetric_encryption_keys=["key"])
    friend = layers(symmetric_encryption_keys=["key"])
    channel = await sealed.new_channel()
    await plain.send(channel, SMALL)
    await friend.send(channel, {"type": "sealed"})
    assert await soon(sealed, channel) == {"type": "sealed"}


# Keys that come from a store


class Store:
    """What one process sees of a store of keys; each asks only when it has to."""

    def __init__(self, *keys: str) -> None:
        self.adapter = ScriptedAdapter(_secret(*keys))
        self.source = CredentialSource(self.adapter, ttl=3600)

    def put(self, *keys: str) -> None:
        """There are other keys; the process finds out when it asks next."""
        self.adapter.then(_secret(*keys))


def _secret(*keys: str) -> Credentials:
    return Credentials(password=json.dumps(keys) if len(keys) > 1 else keys[0])


@pytest.fixture
def stores() -> Iterator[list[Store]]:
    """The sender's and the receiver's."""
    made = [Store("old"), Store("old")]
    yield made
    for store in made:
        store.source.close()


async def test_a_key_changes_without_a_restart(
    layers: Layers, stores: list[Store], stream: type[Stream]
) -> None:
    """One process after the other learns of it, in either order: no message is lost."""
    sender, receiver = (layers(symmetric_encryption_keys=store.source) for store in stores)
    async with stream(sender, receiver, await receiver.new_channel()) as messages:
        for key, order in (("second", stores), ("third", stores[::-1])):
            for store in stores:
                store.put(key)
            for store in order:
                store.source.refresh()
                await messages.more()
    # The receiver asked by itself when the sender was first.
    assert stores[1].adapter.fetches >= 3


async def test_every_way_waits_for_the_new_key(
    layers: Layers, stores: list[Store], soon: Soon
) -> None:
    """Groups, normal channels and large messages as well."""
    here, there = (layers(symmetric_encryption_keys=store.source) for store in stores)
    await send_everywhere_between(here, there, soon)
    for store in stores:
        store.put("new")
    stores[0].source.refresh()
    await send_everywhere_between(here, there, soon)


async def test_a_cancelled_receive_leaves_the_message(
    layers: Layers, stores: list[Store], soon: Soon, eventually: Eventually
) -> None:
    """Whoever receives next has it, in its turn."""
    sender, receiver = (layers(symmetric_encryption_keys=store.source) for store in stores)
    channel = await receiver.new_channel()
    await sender.send(channel, {"type": "test", "id": 0})
    await soon(receiver, channel)
    stores[0].put("new")
    stores[0].source.refresh()
    stores[1].adapter.answering.clear()
    stores[1].put("new")
    for number in (1, 2):
        await sender.send(channel, {"type": "test", "id": number})
    receiving = asyncio.create_task(receiver.receive(channel))
    await eventually(lambda: stores[1].adapter.fetches == 2)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    stores[1].adapter.answering.set()
    assert [(await soon(receiver, channel))["id"] for _ in range(2)] == [1, 2]


async def test_a_cancelled_receive_gives_work_back(
    layers: Layers, stores: list[Store], soon: Soon, eventually: Eventually
) -> None:
    """Another reader has it, and the channel is read on."""
    sender, receiver = (layers(symmetric_encryption_keys=store.source) for store in stores)
    await sender.send("work", {"type": "test", "id": 0})
    await soon(receiver, "work")
    stores[0].put("new")
    stores[0].source.refresh()
    stores[1].adapter.answering.clear()
    stores[1].put("new")
    await sender.send("work", {"type": "test", "id": 1})
    receiving = asyncio.create_task(receiver.receive("work"))
    await eventually(lambda: stores[1].adapter.fetches == 2)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert (await soon(sender, "work"))["id"] == 1
    stores[1].adapter.answering.set()
    await sender.send("work", {"type": "test", "id": 2})
    assert (await soon(receiver, "work"))["id"] == 2


async def test_what_no_key_of_the_store_opens_is_dropped(
    layers: Layers, stores: list[Store], soon: Soon, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the next message arrives."""
    _, receiver = (layers(symmetric_encryption_keys=store.source) for store in stores)
    stranger = layers(symmetric_encryption_keys=["another"])
    sender = layers(symmetric_encryption_keys=["old"])
    channel = await receiver.new_channel()
    stores[1].source.get()
    await stranger.send(channel, {"type": "test", "id": 1})
    await sender.send(channel, {"type": "test", "id": 2})
    assert (await soon(receiver, channel))["id"] == 2
    assert "no symmetric_encryption_keys entry decrypts it" in caplog.text
    assert receiver.stats()["dropped_unreadable"] == 1


async def test_keys_from_files(layers: Layers, soon: Soon, tmp_path: Path) -> None:
    """As the settings have it: a mounted file with nothing but the key."""
    file = tmp_path / "key"
    file.write_text("a key\n")
    keys = {"ADAPTER": "files", "PATH": str(file), "FORMAT": "password"}
    here = layers(symmetric_encryption_keys=keys)
    there = layers(symmetric_encryption_keys=["a key"])
    await send_everywhere_between(here, there, soon)
    await send_everywhere_between(there, here, soon)


async def test_reload_asks_for_keys_too(layers: Layers, stores: list[Store]) -> None:
    """All processes fetch them at once, and say which generation they are at."""
    asking, other = (layers(symmetric_encryption_keys=store.source) for store in stores)
    await other.new_channel()
    await asyncio.gather(*(store.source.aget() for store in stores))
    for store in stores:
        store.put("canary-key")
    await asking.reload()
    assert [store.source.generation for store in stores] == [2, 2]
    (told,) = await asking.processes()
    assert told["keys"]["generation"] == 2
    assert "canary" not in json.dumps(told["keys"])


@pytest.mark.long
async def test_a_store_that_is_away_is_waited_for(
    layers: Layers, stores: list[Store], eventually: Eventually
) -> None:
    """For longer than one question to it takes: the message is read when it is back."""
    sender, receiver = (layers(symmetric_encryption_keys=store.source) for store in stores)
    channel = await receiver.new_channel()
    stores[1].source.get()
    stores[0].source.get()
    stores[0].put("new")
    stores[0].source.refresh()
    stores[1].adapter.then(CredentialsUnavailable("the store is away"))
    await sender.send(channel, {"type": "test"})
    receiving = asyncio.create_task(receiver.receive(channel))
    begun = time.monotonic()
    await eventually(lambda: time.monotonic() - begun > 11, 20)
    assert not receiving.done()
    stores[1].put("new")
    assert await asyncio.wait_for(receiving, 20) == {"type": "test"}
