"""Asking all processes of a layer how they are doing, and to fetch their credentials now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from channels_pg_secrets.layer import inquiry
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsDenied
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers, Peer, Stream

    Eventually = Callable[..., Awaitable[Any]]


def scripted(layers: Layers) -> tuple[ScriptedAdapter, CredentialSource]:
    """A store that holds the login of ``layers``, and is asked once an hour by itself."""
    login = layers.login
    adapter = ScriptedAdapter(Credentials(user=login.user, password=login.password, version="7"))
    return adapter, CredentialSource(adapter, ttl=3600)


async def test_each_process_tells_of_itself(
    layers: Layers, peers: Callable[..., Peer], tmp_path: Path
) -> None:
    """Who it is, whose login it uses and where that comes from, its connections; no secret."""
    login = layers.login
    secret = tmp_path / "login.json"
    secret.write_text(json.dumps({"username": login.user, "password": login.password}))
    settings = {
        "USER": "",
        "PASSWORD": "",
        "CREDENTIALS": {"ADAPTER": "files", "PATH": str(secret)},
    }
    peer = peers(**settings)
    name = (await peer("new_channel")).partition("!")[0].rpartition(".")[2]
    asking = layers()
    await asking.new_channel()
    (told,) = await asking.processes()
    assert (told["node"], told["pid"]) == (name, peer.pid)
    assert told["credentials"]["adapter"] == "files"
    assert told["credentials"]["user"] == login.user
    assert [event["kind"] for event in told["credentials"]["events"]] == ["fetched"]
    assert {one["connection"] for one in told["connections"]} == {"publisher", "listener"}
    for connection in told["connections"]:
        assert (connection["user"], connection["generation"]) == (login.user, 1)
        assert connection["parameters"]["password"] == "CREDENTIALS (files)"
        assert connection["parameters"]["dbname"] == "CONFIG['NAME']"
        assert connection["parameters"]["host"] == "CONFIG['HOST']"
    assert told["stats"]["prefix"] == layers.prefix
    assert login.password not in json.dumps(told)


async def test_nobody_else_is_asked(layers: Layers) -> None:
    """Neither the asker itself nor the processes of another layer in the same database."""
    stranger = layers(prefix=f"{layers.prefix}-other")
    await stranger.new_channel()
    assert await layers().processes() == []


async def test_a_silent_process_is_named(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer in time is in the list, and keeps nobody longer than that."""
    silent = layers()
    await silent.new_channel()
    name = silent.stats()["node"]
    monkeypatch.setattr(silent._here().inquiries, "asked", lambda *_: None)
    assert await layers().processes(timeout=0.2) == [{"node": name, "silent": True}]


async def test_a_question_is_asked_again(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification that met a process between two connections is made good."""
    busy = layers()
    await busy.new_channel()
    inquiries = busy._here().inquiries
    real, heard = inquiries.asked, []

    def second_time(*question: str) -> None:
        heard.append(question)
        if len(heard) > 1:
            real(*question)

    monkeypatch.setattr(inquiries, "asked", second_time)
    monkeypatch.setattr(inquiry, "_AGAIN", 0.05)
    (told,) = await layers().processes()
    assert "silent" not in told
    assert len(set(heard)) == 1


async def test_reload_moves_every_process_at_once(
    layers: Layers, stream: type[Stream], eventually: Eventually
) -> None:
    """All fetch although nothing was due, and move without losing or repeating a message."""
    stores = [scripted(layers) for _ in range(2)]
    sender, receiver = (layers(credentials=source) for _, source in stores)
    other = layers.database.login()
    async with stream(sender, receiver, await receiver.new_channel()) as messages:
        for adapter, _ in stores:
            adapter.then(Credentials(user=other.user, password=other.password))
        answers = await sender.reload()
        assert [(one["generation"], one["changed"]) for one in answers] == [(2, True)] * 2
        assert answers[0]["node"] == sender.stats()["node"]
        await eventually(lambda: layers.backends() == 0)
        await messages.more()
    assert layers.backends(other.user) == 4
    for _, source in stores:
        source.close()


async def test_reload_says_what_the_store_refused(layers: Layers) -> None:
    """The error of each process is told to whoever asked; it goes on with what it has."""
    adapter, source = scripted(layers)
    receiver = layers(credentials=source)
    channel = await receiver.new_channel()
    adapter.then(CredentialsDenied("permission denied on database/creds/app"))
    asking = layers()
    _, told = await asking.reload()
    assert told["error"] == "CredentialsDenied: permission denied on database/creds/app"
    assert (told["generation"], told["changed"]) == (1, False)
    await asking.send(channel, {"type": "test"})
    assert await asyncio.wait_for(receiver.receive(channel), 10) == {"type": "test"}
    source.close()


async def test_who_asks_again_is_fetched_for_once(
    layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes its time is not asked a second time for those who wait for it."""
    adapter, source = scripted(layers)
    receiver = layers(credentials=source)
    await receiver.new_channel()
    asking = layers()
    await asking.new_channel()
    monkeypatch.setattr(inquiry, "_AGAIN", 0.05)
    questions = 0
    real = receiver._here().inquiries.asked

    def count(*question: str) -> None:
        nonlocal questions
        questions += 1
        real(*question)
        if questions == 3:
            adapter.answering.set()

    monkeypatch.setattr(receiver._here().inquiries, "asked", count)
    adapter.answering.clear()
    _, told = await asking.reload()
    assert (told["error"], told["changed"]) == (None, False)
    assert questions >= 3
    assert adapter.fetches == 2
    source.close()


async def test_reload_without_a_source_opens_new_connections(
    layers: Layers, eventually: Eventually
) -> None:
    """Only the engine's backend knows the login then, and it is asked for each connection."""
    layer = layers()
    await layer.new_channel()
    before = layer.stats()["hand_overs"]
    (own,) = await layer.reload()
    assert (own["error"], own["changed"]) == (None, None)
    await eventually(lambda: layer.stats()["hand_overs"] == before + 2)


async def test_reconnect_loses_nothing(layers: Layers, stream: type[Stream]) -> None:
    """Asked for, a process moves as it does in a rotation."""
    sender, receiver = layers(), layers()
    async with stream(sender, receiver, await receiver.new_channel()) as messages:
        await asyncio.gather(sender.reconnect(), receiver.reconnect())
        await messages.more()
    assert sender.stats()["hand_overs"] == receiver.stats()["hand_overs"] == 2


@pytest.mark.parametrize("question", ["status'", "", "a" * 21, "STATUS"])
async def test_only_words_are_asked(layers: Layers, question: str) -> None:
    """Whoever may call the function cannot put together items of his own with it."""
    call = "SELECT channels_pg_secrets_ask_v1(%s, 1, %s, 'ab', 45)"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        layers.database.execute(call, (layers.prefix, question))


async def test_an_unknown_question_is_left_alone(layers: Layers, eventually: Eventually) -> None:
    """A later version may ask what this one does not know; it goes on."""
    asked, layer = layers(), layers()
    channel = await asked.new_channel()
    assert await layer._here().inquiries.ask("weather", 0.1) == [  # type: ignore[arg-type]
        {"node": asked.stats()["node"], "silent": True}
    ]
    await layer.send(channel, {"type": "test"})
    assert await asyncio.wait_for(asked.receive(channel), 10) == {"type": "test"}
