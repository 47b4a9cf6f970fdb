"""Waiting for a node's two connections: to be in use, or to be new ones."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from channels_pg_secrets.layer.homes import layer_closed

if TYPE_CHECKING:
    from channels_pg_secrets.layer.node import Node

#: Seconds between two looks.
_PAUSE = 0.005


async def linked(node: Node) -> None:
    """Wait until both connections are in use.

    Raises:
        ChannelLayerUnavailable: not within ``send_timeout``.
    """
    await node.ready()
    await _opened_since(node, 0.0, node.options.send_timeout)


async def reconnected(node: Node, seconds: float) -> None:
    """Move to new connections, and wait until they have taken over.

    Raises:
        ChannelLayerUnavailable: they have not within so many seconds, or the layer was closed.
    """
    await node.ready()
    begun = time.monotonic()
    node.reconnect()
    await _opened_since(node, begun, seconds)


async def _opened_since(node: Node, begun: float, seconds: float) -> None:
    """Wait until the connections in use are younger than that."""
    until = time.monotonic() + seconds
    while not _are_opened_since(node, begun):
        if node.homes.closed:
            raise layer_closed()
        if time.monotonic() > until:
            raise node.trouble.error()
        await asyncio.sleep(_PAUSE)


def _are_opened_since(node: Node, begun: float) -> bool:
    home = node.homes.current
    opened = home.supervisor.opened() if home is not None and home.supervisor else {}
    return len(opened) == 2 and all(one.opened_at > begun for one in opened.values())
