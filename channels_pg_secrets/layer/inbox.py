"""What arrives in this process, and where it goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from channels_pg_secrets.layer.acknowledgements import Acknowledgements
from channels_pg_secrets.layer.cipher import Cipher, Sealed, UnknownKey
from channels_pg_secrets.layer.complaints import Complaints
from channels_pg_secrets.layer.health import Health
from channels_pg_secrets.layer.item import Item, decode_item
from channels_pg_secrets.layer.mailbox import Mailboxes
from channels_pg_secrets.layer.membership import Memberships
from channels_pg_secrets.layer.normal_channels import Claimed, NormalChannels
from pg_secrets.errors import CredentialsUnavailable

if TYPE_CHECKING:
    from channels_pg_secrets.engines.postgres import PostgresEngine
    from channels_pg_secrets.layer.inquiry import Inquiries
    from channels_pg_secrets.layer.options import Options

logger = logging.getLogger("channels_pg_secrets.layer")

#: Seconds between two questions for a key, beside what the source itself waits.
_PAUSE = 0.1


class Inbox:
    """Mailboxes, memberships and normal channels of one process. Safe from any thread.

    ``kick`` is called when there is something to be written to the database; ``flushed`` with the
    new epoch when another process has flushed the layer; ``acknowledge`` with a node and the token
    of its join or leave that was done.
    """

    def __init__(
        self,
        engine: PostgresEngine,
        options: Options,
        cipher: Cipher,
        health: Health,
        kick: Callable[[], None],
        flushed: Callable[[int], None],
        acknowledge: Callable[[int, str], None],
        inquiries: Inquiries,
    ) -> None:
        self.mailboxes = Mailboxes(options.capacity_of, options.expiry, kick, health)
        self.memberships = Memberships(options.group_expiry, options.capacity_of)
        self.normal_channels = NormalChannels(kick)
        self.acknowledgements = Acknowledgements()
        self.complaints = Complaints()
        self.health = health
        self._engine = engine
        self._cipher = cipher
        self._expiry = options.expiry
        self._kick = kick
        self._flushed = flushed
        self._acknowledge = acknowledge
        self._inquiries = inquiries

    async def claimed(self, channel: str) -> bytes:
        """Wait for a message of a normal channel, and return it serialised."""

        async def opened(message: Claimed) -> bytes | None:
            try:
                item = decode_item(message.item)
                body = message.blob if item.body is None else item.body
                content = self._opened_or_sealed(item, body or b"", 0.0)
                return await self.unsealed(content) if type(content) is Sealed else content
            except Exception as error:  # noqa: BLE001  (must not end a worker)
                self.unreadable(channel, error)
                return None

        while True:
            content = await self.normal_channels.get(channel, opened)
            if content is not None:
                self.health.received += 1
                return content

    def deliver(self, item: Item, body: bytes, age: float) -> None:
        """Put a message into the mailboxes it is for."""
        message = self._opened_or_sealed(item, body, age)
        if item.kind in "cC":
            self._put([item.name], message, age)
        else:
            self._put(self.memberships.local_members(item.name, age), message, age)

    def opened(self, item: Item, body: bytes) -> bytes:
        """Return the serialised message in an item's body. Raises ValueError."""
        if item.json:
            return self._engine.serialize(json.loads(body))
        return self._cipher.decrypt(body)

    async def unsealed(self, message: Sealed) -> bytes:
        """Decrypt what could not be decrypted when it arrived, with a newer key.

        A store that is away is waited for until the message expires.

        Raises:
            UnknownKey: the store has none that fits.
            CredentialsError: the store refuses, or gave no answer in time.
        """
        with contextlib.suppress(UnknownKey):
            return self._cipher.decrypt(message)
        while True:
            try:
                await self._cipher.learn(message.arrived)
                return self._cipher.decrypt(message)
            except CredentialsUnavailable:
                if time.monotonic() >= message.expires:
                    raise
            await asyncio.sleep(_PAUSE)

    def _opened_or_sealed(self, item: Item, body: bytes, age: float) -> bytes:
        """Return the serialised message, or what its receiver has to decrypt with a newer key."""
        try:
            return self.opened(item, body)
        except UnknownKey:
            if self._cipher.source is None:
                raise
        sealed = Sealed(body)
        sealed.arrived = time.monotonic()
        sealed.expires = sealed.arrived + self._expiry - age
        return sealed

    def deliver_to_members(self, group: str, message: bytes) -> None:
        """Serve the group's members in this very process."""
        members = self.memberships.local_members(group)
        if members:
            self._put(members, message, 0.0)

    def control(self, item: Item, sender: int, age: float) -> None:
        """Act on what is no message, sent ``age`` seconds ago."""
        if item.kind == "+":
            self.memberships.joined_from_elsewhere(item.name, item.channel, age)
            self._acknowledge(sender, item.token)
        elif item.kind == "-":
            self.memberships.left_from_elsewhere(item.name, item.channel, age)
            self._acknowledge(sender, item.token)
        elif item.kind == "a":
            self.acknowledgements.received(item.name)
        elif item.kind == "w":
            self.normal_channels.announced(item.name)
        elif item.kind == "f":
            self._flushed(int(item.name))
        elif item.kind == "?":
            self._inquiries.asked(item.name, item.channel, item.token)
        elif item.kind == "=":
            self._inquiries.answered(item.name, item.body or b"")

    def unreadable(self, channel: str, error: Exception) -> None:
        """A message was dropped since it cannot be read; said once a minute."""
        self.health.drop("unreadable")
        self.complaints.warn("unreadable", "Dropped a message to %s: %s", channel, error)

    def _put(self, channels: Collection[str], message: bytes, age: float) -> None:
        if age >= self._expiry:
            self.health.drop("expired", len(channels))
            return
        full = self.mailboxes.deliver(channels, message, age)
        self.health.received += len(channels) - len(full)
        for channel in full:
            self.health.overflowed(channel)

    def sweep(self) -> None:
        """Drop what has expired, and say what was dropped."""
        self.mailboxes.sweep()
        self.memberships.sweep()
        self.normal_channels.look_again()
        self.health.sweep(self.mailboxes.full.lately())
