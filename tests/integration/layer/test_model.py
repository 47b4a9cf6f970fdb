"""Random use of three layers, checked step by step against a model of the specification.

The model stands in ``model.py``. Hypothesis chooses what happens: sends, receives, cancellations,
joins and leaves by owners and others, lost connections, rotations, expiry, flushes, a node's end.
Nothing
may be lost, come twice, come in another order than its sender's, or come to who is not meant.

The short run is the same each time. The long one is random, prints how to repeat what it found, and
is asked for::

    MODEL_EXAMPLES=2000 pytest -m chaos tests/integration/layer/test_model.py
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from inspect import getcoroutinelocals
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from channels.exceptions import ChannelFull
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.layer.node import LEAVE_TIMEOUT
from pg_secrets import policy
from pg_secrets.credentials import Credentials
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter
from pg_secrets.testing.database import FreshDatabase, Login
from tests.integration.layer.model import Channel, Delivery, Model

if TYPE_CHECKING:
    from tests.integration.layer.conftest import Layers

    Soon = Callable[..., Awaitable[dict[str, Any]]]

T = TypeVar("T")

CAPACITY = 3
#: Seconds of one tick, so many that the seconds a run takes do not count beside it.
TICK = 400.0
#: In ticks, for the model, and in seconds, for the layers: half a tick lies between the two.
MESSAGE_LIFE, GROUP_LIFE = 2, 3
EXPIRY, GROUP_EXPIRY = (MESSAGE_LIFE - 0.5) * TICK, (GROUP_LIFE - 0.5) * TICK
#: Real seconds after which what must happen has not happened.
PATIENCE = 20.0
#: Of a message that does not fit into a notification.
PADDING = "x" * 9000

NODES = 3
NORMAL = ("jobs", "mail")
GROUPS = ("red", "blue")
MOST_CHANNELS = 8

#: Everything in the database that has a time, moved back by one tick.
PASS_TIME = (
    "UPDATE channels_pg_secrets_state SET slice_since = slice_since - {0}",
    "UPDATE channels_pg_secrets_member SET expires = expires - {0}",
    "UPDATE channels_pg_secrets_normal_member SET expires = expires - {0}",
    "UPDATE channels_pg_secrets_queue SET created = created - {0}, expires = expires - {0}",
    *(
        f"UPDATE channels_pg_secrets_message_{n} SET created = created - {{0}},"
        " expires = expires - {0}"
        for n in range(3)
    ),
)
CLAIMED = (
    "SELECT count(*) FROM channels_pg_secrets_queue WHERE prefix = %s AND claimed_by IS NOT NULL"
)
WAITING = (
    "SELECT count(*) FROM channels_pg_secrets_queue"
    " WHERE prefix = %s AND channel = %s AND expires > clock_timestamp()"
)
#: Of both kinds: of processes, and of normal channels, which are nobody's.
MEMBERS = """
    SELECT grp, to_hex(node), '', foreign_adds FROM channels_pg_secrets_member
    WHERE prefix = %s AND expires > clock_timestamp()
    UNION ALL
    SELECT grp, '0', channel, 0 FROM channels_pg_secrets_normal_member
    WHERE prefix = %s AND expires > clock_timestamp()
"""
FULL = "SELECT unnest(full_channels) FROM channels_pg_secrets_node WHERE prefix = %s"
LIVE = "SELECT to_hex(id), seen FROM channels_pg_secrets_node WHERE prefix = %s"

nodes = st.integers(0, NODES - 1)
#: An index, to be taken modulo how many there are.
channels = st.integers(0, MOST_CHANNELS - 1)
groups = st.sampled_from(GROUPS)
large = st.integers(0, 4).map(lambda n: n == 4)
#: How often the event loop turns before something else happens.
turns = st.one_of(st.integers(0, 4), st.integers(0, 80))
#: Seconds by which a store is late.
lags = st.sampled_from((0.0, 0.001, 0.01, 0.05))
#: Which connections end, and whether the server ends them or the network, with answers in it.
Link = tuple[str, bool]
links = st.tuples(st.sampled_from(("listener", "publisher", "both")), st.booleans())
#: A group, or the index of a channel.
targets = st.one_of(groups, channels)
sends = st.lists(st.tuples(nodes, targets, large), min_size=2, max_size=8)


class SteppedClock:
    """Goes like the real one, and jumps when it is told to."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self._ahead

    def step(self, seconds: float) -> None:
        """Jump."""
        self._ahead += seconds


class Node:
    """One layer with credentials of its own, of which it has two users in turn."""

    def __init__(self, database: FreshDatabase, prefix: str, logins: list[Login]) -> None:
        self._database = database
        self._logins = logins
        self._adapter = ScriptedAdapter(_credentials(logins[0]))
        self.source = CredentialSource(self._adapter)
        engine = PostgresEngine(database.settings(), self.source)
        layer = engine.channel_layer(
            prefix=prefix,
            expiry=EXPIRY,
            group_expiry=GROUP_EXPIRY,
            capacity=CAPACITY,
            channel_capacity={"settled.*": 100},
            send_timeout=PATIENCE,
        )
        assert isinstance(layer, PostgresChannelLayer)
        self.layer = layer
        #: Where the other nodes' last words arrive.
        self.settled = ""

    async def cut(self, which: str, by_server: bool) -> None:
        """End one or both connections."""
        node = self.layer._node
        home = node.homes.current if node is not None else None
        if home is None or home.supervisor is None:
            return
        for name in ("listening", "publishing"):
            wire = getattr(home.supervisor, f"_{name}").wire
            if wire is None or wire.lost is not None or which[:4] not in (name[:4], "both"):
                continue
            if not by_server:
                wire.cut()
            else:
                pid = wire.opened.connection.pgconn.backend_pid
                self._database.execute("SELECT pg_terminate_backend(%s)", (pid,))

    async def rotate(self, *, user: bool, cut: bool, late: float) -> None:
        """Change the password, or the user, and tell the store some seconds later.

        With ``cut`` the connections end in between, and the new ones are refused.
        """
        if user:
            self._logins.reverse()
        else:
            self._logins[0] = self._database.set_password(self._logins[0].user)
        if cut:
            await self.cut("both", by_server=True)
        await asyncio.sleep(late)
        self._adapter.then(_credentials(self._logins[0]))
        self.source.refresh()

    def rotated(self) -> bool:
        """Both connections are up, with the present credentials."""
        node = self.layer._node
        home = node.homes.current if node is not None else None
        if home is None or home.supervisor is None:
            return False
        wires = [link.wire for link in home.supervisor._links if link.up]
        generations = [wire.opened.generation for wire in wires if wire is not None]
        return generations == [self.source.generation] * 2


def _credentials(login: Login) -> Credentials:
    return Credentials(user=login.user, password=login.password)


class LayerMachine(RuleBasedStateMachine):
    """Uses three layers at random."""

    def __init__(
        self, database: FreshDatabase, logins: list[list[Login]], clock: SteppedClock
    ) -> None:
        super().__init__()
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._prefix = f"t{secrets.token_hex(6)}"
        self._nodes = [Node(database, self._prefix, own) for own in logins]
        self._superuser = database.server.connect(database.name)
        self._model = Model(capacity=CAPACITY, message_life=MESSAGE_LIFE, group_life=GROUP_LIFE)
        #: In the order in which they were made, so that an index means the same when repeated.
        self._channels = [self._model.channel(name, None) for name in NORMAL]
        self._messages: dict[int, dict[str, Any]] = {}
        #: (channel, node) -> the receive that is pending there
        self._pending: dict[tuple[Channel, int], asyncio.Task[dict[str, Any]]] = {}
        self._rounds = 0
        #: Nodes that could not leave in time, and are to be swept away.
        self._not_left: set[str] = set()
        self._failed = False
        self._trail: list[str] = []

    # The rules ----------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """Each node has a channel, and some are in a group."""
        for node in range(NODES):
            self._run(self._new_channel(node))
        for channel in self._channels[1:-1]:
            self._run(self._change("+", GROUPS[0], channel, None))

    @precondition(lambda self: len(self._channels) < MOST_CHANNELS)
    @rule(node=nodes)
    def new_channel(self, node: int) -> None:
        self._run(self._new_channel(node))

    @rule(node=nodes, to=targets, big=large)
    def send(self, node: int, to: str | int, big: bool) -> None:
        self._run(self._burst([(node, to, big)]))

    @rule(burst=sends)
    def send_many_at_once(self, burst: list[tuple[int, str | int, bool]]) -> None:
        self._run(self._burst(burst))

    @rule(burst=sends, at=st.integers(0, 8), turns=turns, node=nodes, link=links)
    def send_while_connections_end(
        self, burst: list[tuple[int, str | int, bool]], at: int, turns: int, node: int, link: Link
    ) -> None:
        if link[0] == "publisher":  # of one that has something to publish
            node = burst[min(at, len(burst) - 1)][0]
        self._run(self._burst(burst, self._nodes[node].cut(*link), at, turns))

    @rule(
        burst=sends,
        at=st.integers(0, 8),
        turns=turns,
        node=nodes,
        user=st.booleans(),
        cut=st.booleans(),
        late=lags,
    )
    def send_while_credentials_rotate(
        self,
        burst: list[tuple[int, str | int, bool]],
        at: int,
        turns: int,
        node: int,
        user: bool,
        cut: bool,
        late: float,
    ) -> None:
        fault = self._nodes[node].rotate(user=user, cut=cut, late=late)
        self._run(self._burst(burst, fault, at, turns))

    @rule(channel=channels, node=nodes)
    def receive(self, channel: int, node: int) -> None:
        self._run(self._receive(self._channel(channel), node))

    @rule(channel=channels, node=nodes)
    def receive_all(self, channel: int, node: int) -> None:
        self._run(self._receive_all(self._channel(channel), node))

    @rule(channel=channels, node=nodes)
    def begin_to_receive(self, channel: int, node: int) -> None:
        self._run(self._begin_to_receive(self._channel(channel), node))

    @rule(channel=channels, node=nodes, link=links, turns=turns)
    def begin_to_receive_while_connections_end(
        self, channel: int, node: int, link: Link, turns: int
    ) -> None:
        self._run(self._begin_to_receive(self._channel(channel), node, link, turns))

    @rule(channel=st.integers(0, len(NORMAL) - 1), node=nodes, big=large, turns=turns)
    def perhaps_lose_the_answer_to_a_claim(
        self, channel: int, node: int, big: bool, turns: int
    ) -> None:
        self._run(self._burst([(node, channel, big)]))
        lost = ("publisher", False)
        self._run(self._begin_to_receive(self._channel(channel), node, lost, turns))

    @rule(channel=channels)
    def cancel_receives(self, channel: int) -> None:
        self._run(self._cancel_receives(self._channel(channel)))

    @rule(channel=channels, node=nodes, sender=nodes, big=large, turns=turns)
    def cancel_a_receive_while_a_message_arrives(
        self, channel: int, node: int, sender: int, big: bool, turns: int
    ) -> None:
        self._run(self._receive_cancelled(channel, node, sender, big, turns))

    @rule(channel=channels, node=nodes, sender=nodes, big=large)
    def cancel_a_receive_when_a_message_has_arrived(
        self, channel: int, node: int, sender: int, big: bool
    ) -> None:
        self._run(self._receive_cancelled(channel, node, sender, big, None))

    @rule(group=groups, channel=channels, node=nodes)
    def join(self, group: str, channel: int, node: int) -> None:
        self._run(self._change("+", group, self._channel(channel), node))

    @rule(group=groups, channel=channels)
    def join_by_owner(self, group: str, channel: int) -> None:
        self._run(self._change("+", group, self._channel(channel), None))

    @rule(group=groups, member=channels, node=nodes)
    def leave(self, group: str, member: int, node: int) -> None:
        self._run(self._change("-", group, self._member(group, member), node))

    @rule(group=groups, member=channels)
    def leave_by_owner(self, group: str, member: int) -> None:
        self._run(self._change("-", group, self._member(group, member), None))

    @rule(group=groups, channel=channels, node=nodes)
    def leave_what_was_perhaps_not_joined(self, group: str, channel: int, node: int) -> None:
        self._run(self._change("-", group, self._channel(channel), node))

    @rule(group=groups, channel=channels, sender=nodes, big=large, turns=turns)
    def join_while_a_message_arrives(
        self, group: str, channel: int, sender: int, big: bool, turns: int
    ) -> None:
        self._run(self._race("+", group, self._channel(channel), sender, big, turns))

    @rule(group=groups, member=channels, sender=nodes, big=large, turns=turns)
    def leave_while_a_message_arrives(
        self, group: str, member: int, sender: int, big: bool, turns: int
    ) -> None:
        self._run(self._race("-", group, self._member(group, member), sender, big, turns))

    @rule(node=nodes, link=links)
    def connections_end(self, node: int, link: Link) -> None:
        self._run(self._disturb(self._nodes[node].cut(*link)))

    @rule(node=nodes, user=st.booleans(), cut=st.booleans(), late=lags)
    def credentials_rotate(self, node: int, user: bool, cut: bool, late: float) -> None:
        self._run(self._disturb(self._nodes[node].rotate(user=user, cut=cut, late=late)))

    @rule(ticks=st.integers(1, GROUP_LIFE))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            self._run(self._time_passes())

    @rule()
    def settle(self) -> None:
        self._run(self._settle())

    @rule(node=nodes)
    def flush(self, node: int) -> None:
        self._run(self._flush(node))

    @rule(node=nodes)
    def close(self, node: int) -> None:
        self._run(self._close(node))

    def teardown(self) -> None:
        """Nothing is lost, no membership is left, and the last credentials are in use."""
        try:
            if not self._failed:
                self._run(self._end())
        finally:
            self._loop.run_until_complete(self._close_all())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._superuser.close()

    # What they do -------------------------------------------------------------------------

    async def _new_channel(self, node: int) -> None:
        name = await self._nodes[node].layer.new_channel()
        self._channels.append(self._model.channel(name, node))

    async def _burst(
        self,
        burst: list[tuple[int, str | int, bool]],
        fault: Coroutine[Any, Any, None] | None = None,
        at: int = 0,
        turns: int = 0,
    ) -> None:
        """Send all at once; in the middle of it something happens."""
        ending = []
        for position, (node, target, big) in enumerate(burst):
            ending.append(self._start(node, target, big))
            await asyncio.sleep(0)
            if fault is not None and position == min(at, len(burst) - 1):
                await _turn(turns)
                await fault
        for end in ending:
            await end
        if fault is not None:
            self._model.doubt_claims()

    def _start(self, node: int, target: str | int, big: bool) -> asyncio.Task[None]:
        """Begin to send; what is returned takes note of how it ended."""
        number, message = self._message(big)
        layer = self._nodes[node].layer
        if isinstance(target, str):
            sent = self._model.group_send(number, node, target)
            return _task(self._group_sent(_task(layer.group_send(target, message)), sent))
        channel = self._channel(target)
        delivery = self._model.send(number, node, channel)
        return _task(self._sent(_task(layer.send(channel.name, message)), channel, delivery))

    async def _sent(
        self, sending: asyncio.Task[None], channel: Channel, delivery: Delivery
    ) -> None:
        try:
            await asyncio.wait_for(sending, PATIENCE)
        except ChannelFull:
            channel.refused(delivery)
        else:
            if not channel.gone and channel.owner in (None, delivery.sender):
                channel.accepted(delivery)

    async def _group_sent(
        self, sending: asyncio.Task[None], sent: list[tuple[Channel, Delivery]]
    ) -> None:
        await asyncio.wait_for(sending, PATIENCE)
        for channel, delivery in sent:
            self._model.returned(channel, delivery)

    async def _receive(self, channel: Channel, node: int) -> None:
        """Receive one message, or find out that there is none."""
        if channel.gone or channel.receivers:
            return
        receiving = self._receiving(channel, node)
        if not channel.expects:
            await self._settle()
            await self._until(
                lambda: receiving.done() or self._rows(WAITING, channel.name) == [(0,)],
                "what waits in a normal channel is not received",
            )
            await self._cancelled(channel, receiving)
            if receiving.cancelled():
                await self._settle()
                channel.emptied()
            return
        self._took(channel, await asyncio.wait_for(receiving, PATIENCE))

    async def _receive_all(self, channel: Channel, node: int) -> None:
        """When all has settled, receive until there is nothing any more."""
        if channel.gone or channel.receivers:
            return
        await self._settle()
        while channel.waiting:
            await self._receive(channel, node)

    async def _begin_to_receive(
        self, channel: Channel, node: int, link: Link | None = None, turns: int = 0
    ) -> None:
        if channel.owner is not None:
            node = channel.owner
        if not channel.gone and (channel, node) not in self._pending:
            self._pending[channel, node] = self._receiving(channel, node)
            channel.receivers += 1
        if link is not None:
            await _turn(turns)
            await self._nodes[node].cut(*link)
            self._model.doubt_claims()

    async def _cancel_receives(self, channel: Channel) -> None:
        for (awaited, node), task in list(self._pending.items()):
            if awaited is channel:
                del self._pending[channel, node]
                channel.receivers -= 1
                await self._cancelled(channel, task)

    async def _receive_cancelled(
        self, channel: int, node: int, sender: int, big: bool, turns: int | None
    ) -> None:
        """Cancel a receive at any moment of a message's way: either has it, or it stays.

        Without ``turns`` that is when it has arrived and the receiver is about to be woken.
        """
        found = self._channel(channel)
        if found.gone or found.receivers:
            return
        receiving = self._receiving(found, node)
        found.receivers += 1
        await asyncio.sleep(0)
        before = self._arrivals(found, node)
        sending = self._start(sender, channel, big)
        if turns is None:
            until = self._clock() + 0.2  # it may be over capacity, and never arrive
            while self._arrivals(found, node) == before and self._clock() < until:  # noqa: ASYNC110
                await asyncio.sleep(0)
        else:
            await _turn(turns)
        found.receivers -= 1
        await self._cancelled(found, receiving, sending)

    async def _change(self, kind: str, group: str, channel: Channel, by: int | None) -> None:
        """A channel joins or leaves, by its owner or by another node."""
        if by is None or channel.gone:
            by = channel.owner or 0
        await self._settle()
        layer = self._nodes[by].layer
        change = layer.group_add if kind == "+" else layer.group_discard
        await asyncio.wait_for(change(group, channel.name), PATIENCE)
        if kind == "+":
            self._model.join(group, channel)
        else:
            self._model.leave(group, channel)

    async def _race(
        self, kind: str, group: str, channel: Channel, sender: int, big: bool, turns: int
    ) -> None:
        """A message to the group is on its way while a channel joins or leaves."""
        if channel.gone or channel.owner in (None, sender):
            return
        await self._settle()
        number, message = self._message(big)
        was_member = channel.name in self._model.members(group)
        self._model.leave(group, channel)
        sent = self._model.group_send(number, sender, group)
        maybe = self._model.may_get(number, sender, channel)
        if kind == "-" and not was_member:
            channel.waiting.remove(maybe)
        assert channel.owner is not None
        sender_layer, layer = self._nodes[sender].layer, self._nodes[channel.owner].layer
        sending = _task(self._group_sent(_task(sender_layer.group_send(group, message)), sent))
        await _turn(turns)
        if kind == "+":
            maybe.certain = was_member and maybe.room
            await asyncio.wait_for(layer.group_add(group, channel.name), PATIENCE)
            self._model.join(group, channel)
            await sending
            return
        await layer.group_discard(group, channel.name)
        # It has left: what has not arrived by now must not come.
        while not channel.receivers:
            receiving = self._receiving(channel, channel.owner)
            await asyncio.sleep(0)
            await self._cancelled(channel, receiving)
            if receiving.cancelled():
                break
        if not channel.receivers and maybe in channel.waiting:
            channel.waiting.remove(maybe)
        await sending

    async def _disturb(self, fault: Coroutine[Any, Any, None]) -> None:
        await fault
        self._model.doubt_claims()

    async def _time_passes(self) -> None:
        await self._settle()
        for statement in PASS_TIME:
            self._superuser.execute(statement.format(f"interval '{TICK} seconds'"))
        self._clock.step(TICK)
        self._model.tick()
        # Whatever was under way by itself, a heartbeat say, counts as late.
        self._model.doubt_claims()

    async def _flush(self, node: int) -> None:
        await asyncio.wait_for(self._nodes[node].layer.flush(), PATIENCE)
        await _turn(3)
        self._harvest()
        self._model.flush()
        # To nobody, whether the sender or the database is asked who is a member.
        await self._burst([(sender, group, False) for sender in range(NODES) for group in GROUPS])

    async def _close(self, node: int) -> None:
        await self._settle()
        for (channel, receiver), task in list(self._pending.items()):
            if receiver == node:
                del self._pending[channel, receiver]
                channel.receivers -= 1
                await self._cancelled(channel, task)
        layer, began = self._nodes[node].layer, self._clock()
        name = layer.stats()["node"]
        await layer.close()
        if self._clock() - began >= LEAVE_TIMEOUT:  # on a starved machine
            self._not_left.add(name)
        self._nodes[node].settled = ""
        self._model.close(node)

    async def _end(self) -> None:
        await self._settle()
        for channel in self._channels:
            await self._cancel_receives(channel)
        for channel in self._channels:
            await self._receive_all(channel, channel.owner or 0)
            await self._receive(channel, channel.owner or 0)  # and nothing comes behind the last
        for group in GROUPS:
            for name in list(self._model.groups.get(group, {})):
                await self._nodes[self._model.channels[name].owner or 0].layer.group_discard(
                    group, name
                )
        await self._until(
            lambda: not self._members(),
            lambda: (
                f"rows of members are left: {self._members()}; nodes: {self._rows(LIVE)}, of"
                f" them here {[node.layer.stats()['node'] for node in self._nodes]}"
            ),
        )
        for node in self._nodes:
            await self._until(node.rotated, "a node has not moved to its latest credentials")

    async def _close_all(self) -> None:
        for task in self._pending.values():
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)
        for node in self._nodes:
            await node.layer.close()
            node.source.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What has happened --------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until nothing is on its way any more.

        Each node has a last word for each other; what the same node sent before comes before it.
        """
        self._rounds += 1
        for node in self._nodes:
            node.settled = node.settled or await node.layer.new_channel("settled")
        await asyncio.gather(
            *(self._last_words(one, other) for one in self._nodes for other in self._nodes)
        )
        for node in self._nodes:
            words = [await self._soon(node.layer.receive(node.settled)) for _ in self._nodes]
            assert all(word["round"] == self._rounds for word in words), words
        await self._until(self._received, "a pending receive got nothing, or a claim stays open")
        self._harvest()
        await self._until(self._relieved, "a channel that is half empty refuses what others send")
        self._model.settle()

    async def _last_words(self, one: Node, other: Node) -> None:
        await self._soon(one.layer.send(other.settled, {"type": "settled", "round": self._rounds}))

    def _received(self) -> bool:
        """Whoever was to receive something has received it, and no claim is open."""
        self._harvest()
        if any(channel.receivers and channel.expects for channel in self._channels):
            return False
        return self._rows(CLAIMED) == [(0,)]

    def _relieved(self) -> bool:
        """No channel is said to be full that has room."""
        full = {name for (name,) in self._rows(FULL)}
        return not any(c.relieved and c.name in full for c in self._channels if not c.gone)

    def _harvest(self) -> None:
        """Take note of what pending receives have got."""
        got: dict[Channel, list[dict[str, Any]]] = {}
        for (channel, node), task in list(self._pending.items()):
            if task.done():
                del self._pending[channel, node]
                channel.receivers -= 1
                got.setdefault(channel, []).append(task.result())
        for channel, messages in got.items():
            self._took(channel, *messages)

    async def _cancelled(
        self,
        channel: Channel,
        receiving: asyncio.Task[dict[str, Any]],
        sending: Awaitable[None] | None = None,
    ) -> None:
        """Cancel a receive, and take note of what it may have got."""
        receiving.cancel()
        await asyncio.wait([receiving])
        channel.unordered = channel.owner is None
        if sending is not None:
            await sending
        if not receiving.cancelled():
            self._took(channel, receiving.result())

    def _took(self, channel: Channel, *messages: dict[str, Any]) -> None:
        for message in messages:
            assert message == self._messages.get(message["number"]), message
        channel.took([message["number"] for message in messages])

    def _message(self, big: bool) -> tuple[int, dict[str, Any]]:
        number = self._model.next_number()
        message = {"type": "test", "number": number, "padding": PADDING if big else ""}
        self._messages[number] = message
        return number, message

    def _arrivals(self, channel: Channel, node: int) -> int:
        """A number that changes when a message is about to be received."""
        if channel.owner is not None:
            return int(self._nodes[channel.owner].layer.stats()["received"])
        found = self._nodes[node].layer._node
        return 0 if found is None else len(found.normal_channels._granted)

    def _channel(self, index: int) -> Channel:
        return self._channels[index % len(self._channels)]

    def _member(self, group: str, index: int) -> Channel:
        """A member by its index, modulo how many there are; any channel where there is none."""
        members = self._model.members(group)
        return (
            self._channels[index % len(self._channels)]
            if not members
            else (self._model.channels[members[index % len(members)]])
        )

    def _receiving(self, channel: Channel, node: int) -> asyncio.Task[dict[str, Any]]:
        receiver = self._nodes[node if channel.owner is None else channel.owner]
        return _task(receiver.layer.receive(channel.name))

    def _rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self._superuser.execute(query, (self._prefix, *params)).fetchall()

    def _members(self) -> list[tuple[Any, ...]]:
        """Rows of members, but for those that the sweep has to remove."""
        return [row for row in self._rows(MEMBERS, self._prefix) if row[1] not in self._not_left]

    async def _until(
        self, condition: Callable[[], bool], otherwise: str | Callable[[], str]
    ) -> None:
        until = self._clock() + PATIENCE
        while not condition():
            assert self._clock() < until, otherwise if isinstance(otherwise, str) else otherwise()
            await asyncio.sleep(0.005)

    async def _soon(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wait_for(coroutine, PATIENCE)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert isinstance(coroutine, CoroutineType)

        async def harvested() -> None:
            await coroutine
            self._harvest()

        arguments = {k: v for k, v in getcoroutinelocals(coroutine).items() if k != "self"}
        self._trail.append(f"{coroutine.__name__} {arguments}")
        try:
            self._loop.run_until_complete(harvested())
        except BaseException as error:
            self._failed = True
            # Said at once: what hangs on a moment may not happen again when it is repeated.
            print("After", *self._trail, repr(error), "", sep="\n")
            raise


def _task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(coroutine)


async def _turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    """The monotonic clock of the whole process, which jumps when it is told to."""
    made = SteppedClock()
    monkeypatch.setattr(time, "monotonic", made)
    # Sources have the real clock; nobody is kept waiting for long.
    monkeypatch.setattr(policy, "FETCH_SPACING", 0.0)
    monkeypatch.setattr(policy, "_REJECTION_FIRST", 0.02)
    monkeypatch.setattr(policy, "_REJECTION_CAP", 0.1)
    return made


@pytest.fixture
def drive(layer_database: FreshDatabase, clock: SteppedClock) -> Callable[[settings], None]:
    """Runs the machine as often and as long as the settings say."""
    logins = [[layer_database.login() for _ in range(2)] for _ in range(NODES)]

    class Machine(LayerMachine):
        def __init__(self) -> None:
            super().__init__(layer_database, logins, clock)

    def run(how: settings) -> None:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                how,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )

    return run


@pytest.mark.timeout(600)  # what fails is made smaller first, for up to five minutes
def test_the_layer_does_what_the_model_says(drive: Callable[[settings], None]) -> None:
    """No short random use of three layers has an outcome that the model does not allow."""
    drive(settings(max_examples=6, stateful_step_count=25, derandomize=True, database=None))


async def test_one_senders_order_at_a_normal_channel(layers: Layers, soon: Soon) -> None:
    """What is sent at once to a normal channel and to a group that it is in comes in order."""
    layer = layers()
    await layer.group_add("group", "jobs")
    # While the first is on its way, the others gather for one batch.
    sending = [layer.send("other", {"type": "test"})]
    for number in range(0, 6, 2):
        sending.append(layer.send("jobs", {"type": "test", "n": number}))
        sending.append(layer.group_send("group", {"type": "test", "n": number + 1}))
    await asyncio.gather(*sending)
    assert [(await soon(layer, "jobs"))["n"] for _ in range(6)] == list(range(6))


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_the_layer_does_what_the_model_says_for_long(drive: Callable[[settings], None]) -> None:
    """Nor has any long one."""
    examples = int(os.environ.get("MODEL_EXAMPLES", "300"))
    drive(settings(max_examples=examples, stateful_step_count=60))
