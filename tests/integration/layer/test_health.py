"""What a layer tells of itself while real servers and connections come and go."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from channels.exceptions import ChannelFull
from django.dispatch import Signal

from channels_pg_secrets import signals
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer import supervisor
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from pg_secrets.credentials import Credentials
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.canary import Hunt
from pg_secrets.testing.database import Login
from pg_secrets.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Eventually = Callable[..., Awaitable[Any]]
    Soon = Callable[..., Awaitable[dict[str, Any]]]

NAMES = {id(getattr(signals, name)): name for name in signals.__all__}


class Ears:
    """Hears all signals, and looks at where they come from."""

    def __init__(self, prefix: str) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.threads: set[int] = set()
        self.locked: list[bool] = []
        self.layer: PostgresChannelLayer | None = None
        self._prefix = prefix

    def __call__(self, signal: Signal, sender: type, prefix: str, **what: Any) -> None:
        if prefix != self._prefix:
            return
        assert sender is PostgresEngine
        self.threads.add(threading.get_ident())
        if self.layer is not None:
            self.locked.append(_is_held(self.layer._here().homes.succession.lock))
            self.layer.stats()
        self.heard.append((NAMES[id(signal)], what))

    def of(self, name: str, layer: PostgresChannelLayer) -> list[dict[str, Any]]:
        """What came of one signal from one layer."""
        node = layer.stats()["node"]
        return [
            {key: value for key, value in what.items() if key != "node"}
            for heard, what in self.heard
            if heard == name and what["node"] == node
        ]


def _is_held(lock: Any) -> bool:
    """Whether anybody, this thread included, holds a lock."""
    found: list[bool] = []

    def look() -> None:
        free = lock.acquire(timeout=1)
        found.append(not free)
        if free:
            lock.release()

    looking = threading.Thread(target=look)
    looking.start()
    looking.join()
    return found[0]


@pytest.fixture
def ears(layers: Layers) -> Iterator[Ears]:
    """Hears what the layers of a test say."""
    made = Ears(layers.prefix)
    for name in signals.__all__:
        getattr(signals, name).connect(made)
    yield made
    for name in signals.__all__:
        getattr(signals, name).disconnect(made)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps come four times a second."""
    monkeypatch.setattr(supervisor, "HEARTBEAT", 0.25)


@pytest.fixture
def behind(layers: Layers, proxy: FaultProxy) -> PostgresChannelLayer:
    """A layer behind the proxy."""
    engine = PostgresEngine({**layers.settings(), "PORT": proxy.port})
    layer = engine.channel_layer(prefix=layers.prefix)
    assert isinstance(layer, PostgresChannelLayer)
    layers.made.append(layer)
    return layer


def credentials(login: Login) -> Credentials:
    return Credentials(user=login.user, password=login.password)


async def up(layer: PostgresChannelLayer, eventually: Eventually) -> str:
    """Make a channel, and wait until the layer has both its connections."""
    channel = await layer.new_channel()
    await eventually(lambda: len(layer.stats()["connected"]) == 2)
    return channel


async def test_connections_that_come_and_go_are_told(
    layers: Layers, ears: Ears, eventually: Eventually
) -> None:
    """Connecting, being cut off and connecting again are two signals of each for each link."""
    layer = ears.layer = layers()
    await up(layer, eventually)
    await eventually(lambda: len(ears.of("connected", layer)) == 2)
    both = {"publisher", "listener"}
    assert {what["connection"] for what in ears.of("connected", layer)} == both
    assert ears.of("disconnected", layer) == []
    layers.database.terminate(layers.login.user)
    await eventually(lambda: len(ears.of("connected", layer)) == 4)
    gone = ears.of("disconnected", layer)
    assert {what["connection"] for what in gone} == both
    assert all(what["reason"] and "\n" not in what["reason"] for what in gone)
    stats = layer.stats()
    assert (stats["connects"], stats["disconnects"], stats["rotations"]) == (4, 2, 0)
    assert ears.threads == {threading.get_ident()}
    assert ears.locked
    assert not any(ears.locked)


async def test_a_change_of_credentials_is_a_rotation(
    layers: Layers, ears: Ears, eventually: Eventually
) -> None:
    """Moving to other credentials is told for each connection, with their generation."""
    adapter = ScriptedAdapter(credentials(layers.login))
    source = CredentialSource(adapter, ttl=0.2)
    layer = layers(credentials=source)
    await up(layer, eventually)
    before = layer.stats()["generation"]
    adapter.then(credentials(layers.database.login()))
    await eventually(lambda: len(ears.of("rotated", layer)) == 2)
    assert {what["connection"] for what in ears.of("rotated", layer)} == {"publisher", "listener"}
    stats = layer.stats()
    assert stats["rotations"] == 2
    assert stats["hand_overs"] >= 2
    assert stats["generation"] > before
    assert {what["generation"] for what in ears.of("rotated", layer)} == {stats["generation"]}
    assert ears.of("disconnected", layer) == []
    source.close()


async def test_replays_are_told(
    layers: Layers,
    ears: Ears,
    behind: PostgresChannelLayer,
    proxy: FaultProxy,
    soon: Soon,
    eventually: Eventually,
) -> None:
    """What was sent while nobody listened is counted in frames when it is read."""
    sender = layers()
    channel = await up(behind, eventually)
    proxy.hold_answers()
    for number in range(5):
        await sender.send(channel, {"type": "test", "n": number})
    proxy.reset()
    proxy.release_answers()
    assert [(await soon(behind, channel))["n"] for _ in range(5)] == list(range(5))
    await eventually(lambda: ears.of("replayed", behind))
    assert sum(what["frames"] for what in ears.of("replayed", behind)) == 5
    assert behind.stats()["replayed"] == 5


async def test_a_full_channel_is_told_of(
    layers: Layers, ears: Ears, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Group messages to a full channel are dropped, counted, and told once for a sweep."""
    here, there = layers(), layers(capacity=5)
    channel = await up(there, eventually)
    await there.group_add("group", channel)
    for number in range(12):
        await here.group_send("group", {"type": "test", "n": number})
    await eventually(lambda: there.stats()["dropped_over_capacity"] == 7)
    await eventually(lambda: sum(what["messages"] for what in ears.of("dropped", there)) == 7)
    assert {what["reason"] for what in ears.of("dropped", there)} == {"over_capacity"}
    over = ears.of("over_capacity", there)
    assert sum(what["messages"] for what in over) == 7
    assert {what["channel"] for what in over} == {channel}
    assert all(what["channels"] == 1 for what in over)
    assert len(over) <= 3
    assert there.stats()["full_channels"] == 1
    with pytest.raises(ChannelFull):
        await here.send(channel, {"type": "test"})
    assert here.stats()["refused"] == 1
    assert there.stats()["received"] == 5


async def test_a_full_normal_channel_in_a_group_is_told_of(
    layers: Layers, ears: Ears, soon: Soon, eventually: Eventually
) -> None:
    """What it does not take is counted where it was sent, once, in whatever batch it was."""
    here, there = layers(capacity=5), layers()
    for name in ("work", "more"):
        await here.group_add("group", name)
    for number in range(7):  # each as a batch of its own
        await here.group_send("group", {"type": "test", "n": number})
    assert here.stats()["dropped_over_capacity"] == 4
    message = {"type": "test"}
    sends = [here.group_send("group", message), here.send("work", message)]
    sends += [here.group_send("group", message), here.send("work", message)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ChannelFull] * 2
    assert here.stats()["dropped_over_capacity"] == 8
    await eventually(lambda: sum(what["messages"] for what in ears.of("dropped", here)) == 8)
    over = ears.of("over_capacity", here)
    assert {what["channel"] for what in over} <= {"work", "more"}
    assert sum(what["messages"] for what in over) == 8
    assert [(await soon(there, "work"))["n"] for _ in range(5)] == list(range(5))
    assert there.stats()["dropped"] == 0


async def test_what_was_dropped_last_is_logged_by_close(
    layers: Layers, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender that lives for a moment only says what its group's normal channels did not take."""
    brief = layers(capacity=1)
    await brief.group_add("group", "work")
    for _ in range(3):
        await brief.group_send("group", {"type": "test"})
    await brief.close()
    # A sweep in between tells its part by itself.
    told = re.findall(
        r"(\d) messages were dropped at 1 channels .* at work$", caplog.text, re.MULTILINE
    )
    assert sum(int(number) for number in told) == 2


async def test_what_is_sent_again_is_not_dropped_again(
    layers: Layers, behind: PostgresChannelLayer, proxy: FaultProxy, eventually: Eventually
) -> None:
    """A group message is counted once at a full normal channel, though its answer was lost."""
    message = {"type": "test"}
    await up(behind, eventually)
    await behind.group_add("group", "work")
    await behind.group_send("group", message)  # the statement is prepared from now on
    await asyncio.gather(*(behind.send("work", message) for _ in range(99)))
    node = behind._here()
    query = "SELECT base FROM channels_pg_secrets_sent WHERE sender = %s"
    before = layers.database.execute(query, (node.identity.node,))
    proxy.hold_answers()
    sending = asyncio.create_task(behind.group_send("group", message))
    await eventually(lambda: layers.database.execute(query, (node.identity.node,)) != before)
    assert behind.stats()["dropped"] == 0
    proxy.reset()
    proxy.release_answers()
    await asyncio.wait_for(sending, 10)
    assert behind.stats()["dropped_over_capacity"] == 1
    node.outbox.resend()  # as after a crash
    await behind.group_send("group", message)
    assert behind.stats()["dropped_over_capacity"] == 2


async def test_what_nobody_reads_expires_and_is_told(
    layers: Layers, ears: Ears, eventually: Eventually
) -> None:
    """Messages that expire in a mailbox are dropped for that reason."""
    here, there = layers(), layers(expiry=1)
    channel = await up(there, eventually)
    for number in range(3):
        await here.send(channel, {"type": "test", "n": number})
    await eventually(lambda: there.stats()["dropped_expired"] == 3)
    await eventually(lambda: sum(w["messages"] for w in ears.of("dropped", there)) == 3)
    assert {what["reason"] for what in ears.of("dropped", there)} == {"expired"}
    assert there.stats()["received_bytes_waiting"] == 0


async def test_what_cannot_be_decrypted_is_told(
    layers: Layers, ears: Ears, eventually: Eventually
) -> None:
    """A message under another key is dropped as unreadable."""
    here = layers(symmetric_encryption_keys=["one key"])
    there = layers(symmetric_encryption_keys=["another"])
    channel = await up(there, eventually)
    await here.send(channel, {"type": "test"})
    await eventually(lambda: ears.of("dropped", there))
    assert ears.of("dropped", there) == [{"reason": "unreadable", "messages": 1}]
    assert there.stats()["dropped"] == 1


async def test_no_signal_is_sent_for_a_message(
    layers: Layers, ears: Ears, soon: Soon, eventually: Eventually
) -> None:
    """Messages that arrive are counted, and nobody is called."""
    here, there = layers(), layers()
    channel = await up(there, eventually)
    await up(here, eventually)
    await eventually(lambda: len(ears.heard) == 4)
    for number in range(50):
        await here.send(channel, {"type": "test", "n": number})
        await soon(there, channel)
    await asyncio.sleep(0.6)
    assert len(ears.heard) == 4
    assert here.stats()["sent"] == 50
    assert there.stats()["received"] == 50


async def test_no_secret_is_in_signals_and_stats(
    layers: Layers, ears: Ears, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a password nor a message is in any signal, counter or log record."""
    caplog.set_level("DEBUG")
    hunt, content = Hunt("test_health.py"), Hunt("test_health.py")
    login = layers.database.login(password=hunt.password())
    adapter = ScriptedAdapter(credentials(login))
    source = CredentialSource(adapter, ttl=0.2)
    layer = layers(
        credentials=source, capacity=1, symmetric_encryption_keys=[hunt.password() + "-key"]
    )
    stranger = layers(symmetric_encryption_keys=["another"])
    channel = await up(layer, eventually)
    await layer.group_add("group", channel)
    message = {"type": "test", "body": content.password()}
    await stranger.send(channel, message)
    for _ in range(3):
        await layer.group_send("group", message)
    layers.database.terminate(login.user)
    await eventually(lambda: len(ears.of("connected", layer)) >= 4)
    layers.database.set_password(login.user)
    adapter.then(credentials(layers.database.login(password=f"{hunt.password()}-2")))
    await eventually(lambda: len(ears.of("rotated", layer)) >= 2)
    await eventually(lambda: {"dropped", "over_capacity"} <= {name for name, _ in ears.heard})
    for canary in (hunt, content):
        for name, what in ears.heard:
            canary.in_text(f"the signal {name}", json.dumps(what))
        canary.in_text("stats", json.dumps(layer.stats()))
        canary.in_text("the log", caplog.text)
    assert hunt.looked > 8
    source.close()
