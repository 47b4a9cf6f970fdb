"""How to reach other nodes directly: asked for once, since it never changes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Call
from channels_pg_secrets.layer.item import FrameKey

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.wire import Rows

#: Nodes that are remembered; those met first are asked for again.
_REMEMBERED = 10_000


class Peer(NamedTuple):
    """Another node: the channel it listens on, and the key of the frames that it believes."""

    channel: bytes
    key: FrameKey


class Peers:
    """The nodes that this one sends to. Belongs to the home loop."""

    def __init__(self) -> None:
        # None: the tables did not know it.
        self._peers: dict[int, Peer | None] = {}
        self._unasked: deque[int] = deque()

    def get(self, node: int) -> Peer | None:
        """Return a node, or None and ask for it: the database reaches it until the answer comes."""
        try:
            return self._peers[node]
        except KeyError:
            self._peers[node] = None
            self._unasked.append(node)
            if len(self._peers) > _REMEMBERED:
                del self._peers[next(iter(self._peers))]
            return None

    def forget_absent(self) -> None:
        """The tables may know by now whom they did not know."""
        for node in [node for node, peer in self._peers.items() if peer is None]:
            del self._peers[node]
        self._unasked.clear()

    @property
    def waiting(self) -> bool:
        """There is somebody to ask for."""
        return bool(self._unasked)

    def next_call(self, identity: Identity) -> Call:
        """Return the next ``peer``."""
        node = self._unasked.popleft()

        def done(rows: Rows) -> bool:
            for channel, inner, outer in rows:
                self._peers[node] = Peer(channel, FrameKey(inner, outer))
            return True

        def in_doubt() -> None:
            self._unasked.appendleft(node)

        def refused(_error: Exception) -> None:
            pass  # the database goes on reaching it

        return Call(statements.PEER, (node,), done, in_doubt, refused)
