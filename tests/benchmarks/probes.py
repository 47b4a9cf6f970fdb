"""Probes: what is sent until it arrives, before anything is measured.

Some layers lose what is sent before they listen, or begin to listen again for each receiver that
comes before they do. Probes are not counted, and a late one is passed over.
"""

from __future__ import annotations

import asyncio
from typing import Any

from channels.layers import BaseChannelLayer

#: How often a probe is sent, at most.
ATTEMPTS = 40


class WrongMessage(Exception):
    """A layer delivered another message than the one that was sent."""


class NotReached(Exception):
    """A layer delivered none of the probes."""


def probe() -> dict[str, Any]:
    """Return a message that says it is a probe."""
    return {"type": "bench.probe", "probe": True, "padding": ""}


async def listening(layer: BaseChannelLayer, channel: str, settle: float) -> None:
    """Return when a channel of this process receives. Raises NotReached."""
    receiving = asyncio.ensure_future(layer.receive(channel))
    for _ in range(ATTEMPTS):
        await layer.send(channel, probe())
        await asyncio.wait([receiving], timeout=settle)
        if receiving.done():
            receiving.result()
            return
    receiving.cancel()
    raise NotReached(f"received none of {ATTEMPTS} messages to itself")


async def receive(layer: BaseChannelLayer, channel: str) -> dict[str, Any]:
    """Receive the next message that is no probe."""
    while True:
        message: dict[str, Any] = await layer.receive(channel)
        if "probe" not in message:
            return message


def verify(received: dict[str, Any], sent: dict[str, Any]) -> None:
    """Raise WrongMessage where it is another one; a floor that carries the padding alone has it."""
    if received.items() - sent.items() or received.get("padding") != sent["padding"]:
        numbers = f"{received.get('number')} for {sent['number']}"
        raise WrongMessage(f"received another message than was sent: {numbers}")
