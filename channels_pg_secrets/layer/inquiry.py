"""Asking every process of a layer something: how it is doing, or to fetch its credentials again.

A question travels as a notification to each process, neither numbered nor kept. One may be between
two connections just then, so whoever asks does so again until all have answered. The answers travel
like messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from channels_pg_secrets.layer import connections, statements
from channels_pg_secrets.layer.item import MAX_INLINE, answer_item
from channels_pg_secrets.layer.names import node_name
from channels_pg_secrets.layer.outbox import Outgoing
from channels_pg_secrets.layer.status import status
from channels_pg_secrets.layer.supervisor import STALE
from channels_pg_secrets.timeouts import timeout

if TYPE_CHECKING:
    from channels_pg_secrets.layer.node import Node
    from pg_secrets.source import CredentialSource

logger = logging.getLogger("channels_pg_secrets.layer")

Question = Literal["status", "reload"]

#: Seconds until those who have not answered are asked again.
_AGAIN = 1.0
#: Processes that wait for this one to reload, at most; more are not answered.
_ASKERS = 100


class Answers:
    """What has come in to one question. Made on the asker's loop; answers come from any thread."""

    def __init__(self) -> None:
        self.by_node: dict[int, dict[str, Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._another = asyncio.Event()

    def add(self, answer: dict[str, Any]) -> None:
        """Take one process's answer."""
        self.by_node[int(answer["node"], 16)] = answer
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it whoever asked
            self._loop.call_soon_threadsafe(self._another.set)

    async def wait_for(self, nodes: set[int], seconds: float) -> None:
        """Wait until all these have answered, for so long at most."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with timeout(seconds):
                while nodes - self.by_node.keys():
                    await self._another.wait()
                    self._another.clear()


class Inquiries:
    """This process's questions to the others, and its answers to theirs. Safe from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answers: dict[str, Answers] = {}
        #: Who asked to reload since the last fetch began: node and token.
        self._askers: list[tuple[int, str]] = []
        #: Those whom the fetch that is under way is for: they ask again until they hear.
        self._served: list[tuple[int, str]] = []
        self._reloading = False
        self._lock = threading.Lock()

    # Asking -------------------------------------------------------------------------------

    async def ask(self, question: Question, seconds: float) -> list[dict[str, Any]]:
        """Return what the other processes answer within so many seconds.

        Of one that is silent the answer is its ``node`` and ``silent``, and no more.

        Raises:
            ChannelLayerUnavailable: the database did not take the question in time.
        """
        token = secrets.token_hex(8)
        answers = self._answers[token] = Answers()
        identity = self._node.identity
        values = (identity.prefix, identity.node, question, token, STALE)
        until = time.monotonic() + seconds
        try:
            # They answer to where this process listens, and what comes before that is lost.
            await connections.linked(self._node)
            while True:
                asked = {node for (node,) in await self._node.request(statements.ASK, *values)}
                await answers.wait_for(asked, min(_AGAIN, until - time.monotonic()))
                silent = asked - answers.by_node.keys()
                if not silent or time.monotonic() >= until:
                    break
        finally:
            del self._answers[token]
        found = [*answers.by_node.values()]
        found += [{"node": node_name(node), "silent": True} for node in silent]
        return sorted(found, key=lambda answer: str(answer["node"]))

    def answered(self, token: str, body: bytes) -> None:
        """An answer has come; one that nobody waits for any more is dropped."""
        answers = self._answers.get(token)
        if answers is not None:
            answers.add(json.loads(body))

    # Answering ----------------------------------------------------------------------------

    def asked(self, question: str, asker: str, token: str) -> None:
        """Another process asks. On the home loop; does not block.

        What is not known here is not answered: it may come from a later version.
        """
        node = int(asker, 16)
        if question == "status":
            self._answer(node, token, status(self._node))
        elif question == "reload":
            with self._lock:
                known = (node, token) in self._askers or (node, token) in self._served
                if not known and len(self._askers) < _ASKERS:
                    self._askers.append((node, token))
                begin, self._reloading = not self._reloading, True
            if begin:
                asyncio.get_running_loop().run_in_executor(None, self._reload)

    def _reload(self) -> None:
        """Fetch for all who have asked; in a worker thread, as the store is waited for."""
        while True:
            with self._lock:
                self._served, self._askers = self._askers, []
                if not self._served:
                    self._reloading = False
                    return
            outcome = self.refresh()
            for node, token in self._served:
                self._answer(node, token, outcome)

    def refresh(self) -> dict[str, Any]:
        """Ask the store now, and say what came of it. Blocks, for ten seconds at most.

        Without a source only the engine knows where its login comes from: it is asked by opening
        new connections.
        """
        source, keys = self._node.engine.source, self._node.cipher.source
        outcome: dict[str, Any] = {"node": self._node.identity.name, "error": None}
        if keys is not None:
            outcome["error"] = _refreshed(keys)
        if source is None:
            self._node.reconnect()
            return {**outcome, "generation": 0, "changed": None}
        before = source.generation
        outcome["error"] = _refreshed(source) or outcome["error"]
        changed = source.generation != before
        return {**outcome, "generation": source.generation, "changed": changed}

    def _answer(self, node: int, token: str, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        if len(body) > MAX_INLINE:
            short = {key: answer[key] for key in ("node", "host", "pid") if key in answer}
            body = json.dumps({**short, "too_long": len(body)}).encode()
        self._node.post(Outgoing(answer_item(token, body), node=node))


def _refreshed(source: CredentialSource) -> str | None:
    """Ask the store now; return what went wrong."""
    try:
        source.refresh()
    except Exception as error:  # noqa: BLE001  (whatever it was, the asker is told)
        logger.warning("The credentials could not be fetched when asked to: %s", error)
        return f"{type(error).__name__}: {error}"
    return None
