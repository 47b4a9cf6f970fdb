"""channels_redis' layers, as the Redis engine builds them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from channels_redis.core import RedisChannelLayer as CoreLayer
from channels_redis.pubsub import RedisPubSubChannelLayer as PubSubLayer
from redis import exceptions

from channels_pg_secrets.timeouts import timeout

__all__ = ["PubSubLayer", "RedisChannelLayer"]

#: Seconds between two attempts to reach a server that is away.
_PAUSE = 0.25
_LOST = (exceptions.ConnectionError, exceptions.TimeoutError)


class RedisChannelLayer(CoreLayer):  # type: ignore[misc]
    """channels_redis' core layer, in which a receiver survives the end of its session.

    Redis ends sessions when their user is deleted. Whoever waits for a message then waits on
    with the next login, for at most :attr:`reconnect_budget` seconds without any answer.
    """

    #: Seconds a receiver waits for a server that is away before its error is raised. Longer than a
    #: connection that is refused waits for other credentials (10), so that this is what is said.
    reconnect_budget = 15.0

    async def receive_single(self, channel: str) -> Any:
        """Wait for one message to a channel of this process, or to a normal channel."""
        receive = super().receive_single
        return await self._outlasting(lambda: receive(channel))

    async def _clean_receive_backup(self, index: int, channel: str) -> None:
        # Else what has been received is received once more. The lock that channels_redis holds
        # meanwhile makes it harmless to do this twice.
        clean = super()._clean_receive_backup
        await self._outlasting(lambda: clean(index, channel))

    async def _outlasting(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except exceptions.AuthenticationError:
                raise
            except _LOST as error:
                lost = error
            try:
                async with timeout(self.reconnect_budget):
                    await self._answering()
            except asyncio.TimeoutError:
                raise lost from None

    async def _answering(self) -> None:
        """Wait until every server answers."""
        for index in range(self.ring_size):
            while True:
                try:
                    await self.connection(index).ping()
                    break
                except exceptions.AuthenticationError:
                    raise
                except _LOST:
                    await asyncio.sleep(_PAUSE)
