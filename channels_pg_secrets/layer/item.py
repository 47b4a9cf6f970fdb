"""What travels between nodes: frames of items, as text that a NOTIFY can carry.

A frame is ``<mac><sender hex> <number hex> <item>,<item>,…``; the SQL function ``emit`` builds it
and authenticates it with the receiving node's key. An item starts with its kind:

==============================  ==============================================
``c<channel> <b64>``            a message to a channel of the receiving node
``g<group> <b64>``              a message to the members that it has in a group
``C<channel>``                  the same two, with the body in a row, since it
``G<group>``                    does not fit
``+<group> <channel> <token>``  the channel joins the group
``-<group> <channel> <token>``  the channel leaves it
``a<token>``                    the owner has done so
``w<channel>``                  there is work in a normal channel
``f<epoch>``                    the layer was flushed
``?<question> <node> <token>``  that node asks something (inquiry.py)
``=<token> <b64>``              the answer to it
==============================  ==============================================

``j`` before ``c g C G``: the body is JSON, sent from SQL. base64, since a payload is text in the
database's encoding, and the only one of Python's binary-to-text codecs that runs at C speed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

#: Bytes of an item, at most: a notification holds 7999 (PostgreSQL, NOTIFY), of which the frame's
#: HMAC and numbers take up to 55, and functions_v1.sql keeps frames below 7900.
MAX_ITEM = 7800
#: Bytes of a serialised message that goes inline: base64 makes four of three, the name takes 101.
MAX_INLINE = (MAX_ITEM - 102) // 4 * 3

_MAC_LENGTH = 20


class Item(NamedTuple):
    """One decoded item. ``body`` is ``None`` where there is none or it lies in a row."""

    kind: str
    name: str
    body: bytes | None
    channel: str = ""
    token: str = ""
    json: bool = False


class Frame(NamedTuple):
    """One notification or one row of the backlog, its items still encoded."""

    sender: int
    number: int
    items: bytes

    @property
    def large(self) -> bool:
        """It is a message whose body lies in a row; it has no other item."""
        return self.items.startswith((b"C", b"G", b"jC", b"jG"))


class FrameInvalid(ValueError):
    """A payload that is no frame of ours: malformed, or not authentic."""


class FrameKey:
    """The key that authenticates the frames sent to one node (HMAC-SHA256, cut to 15 bytes)."""

    def __init__(self, inner: bytes, outer: bytes) -> None:
        """Take HMAC's inner and outer pad, as :meth:`pads` returns them."""
        self._pads = inner, outer
        # Both have taken in their pad: going on from copies is cheaper than hmac.digest().
        self._inner, self._outer = map(hashlib.sha256, self._pads)

    @classmethod
    def generate(cls) -> FrameKey:
        """Return a new random key."""
        return cls.of(secrets.token_bytes(32))

    @classmethod
    def of(cls, secret: bytes) -> FrameKey:
        """Return the key for a secret of at most 64 bytes, SHA-256's block (RFC 2104)."""
        block = secret.ljust(hashlib.sha256().block_size, b"\0")
        return cls(bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block))

    def pads(self) -> tuple[bytes, bytes]:
        """Return HMAC's inner and outer pad, so that SQL needs only sha256()."""
        return self._pads

    def open(self, payload: bytes) -> Frame:
        """Return the frame in a notification's payload. Raises FrameInvalid."""
        mac, frame = payload[:_MAC_LENGTH], payload[_MAC_LENGTH:]
        if not hmac.compare_digest(mac, self._mac(frame)):
            raise FrameInvalid("not authentic")
        try:
            sender, number, items = frame.split(b" ", 2)
            return Frame(int(sender, 16), int(number, 16), items)
        except ValueError:
            raise FrameInvalid("malformed") from None

    def seal(self, sender: int, number: int, items: bytes) -> bytes:
        """Return what stands before the items in a notification, as the SQL function ``emit``."""
        numbers = b"%x %x " % (sender, number)
        return self._mac(numbers + items) + numbers

    def _mac(self, frame: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(frame)
        outer.update(inner.digest())
        return b2a_base64(outer.digest()[:15], newline=False)


def message_item(kind: str, name: str, body: bytes | None) -> bytes:
    """Encode a message to a channel (``c``) or group (``g``); ``body`` None: it lies in a row."""
    if body is None:
        return f"{kind.upper()}{name}".encode()
    return b"%s%s %s" % (kind.encode(), name.encode(), b2a_base64(body, newline=False))


def membership_item(kind: str, group: str, channel: str, token: str) -> bytes:
    """Encode a join (``+``) or a leave (``-``), which the owner acknowledges with the token."""
    return f"{kind}{group} {channel} {token}".encode()


def acknowledgement_item(token: str) -> bytes:
    """Encode the owner's answer to a join or a leave."""
    return f"a{token}".encode()


def answer_item(token: str, body: bytes) -> bytes:
    """Encode the answer to a question."""
    return b"=%s %s" % (token.encode(), b2a_base64(body, newline=False))


def decode_item(data: bytes) -> Item:
    """Decode one item. Raises FrameInvalid."""
    try:
        json = data[:1] == b"j"
        if json:
            data = data[1:]
        kind = chr(data[0])
        name, _, rest = data[1:].partition(b" ")
        if kind in "cg":
            return Item(kind, name.decode("ascii"), a2b_base64(rest), json=json)
        if kind in "CG":
            return Item(kind, name.decode("ascii"), None, json=json)
        if kind == "=":
            return Item(kind, name.decode("ascii"), a2b_base64(rest))
        if kind in "+-?":
            channel, _, token = rest.decode("ascii").partition(" ")
            return Item(kind, name.decode("ascii"), None, channel, token)
        if kind in "awf":
            return Item(kind, name.decode("ascii"), None)
    except (ValueError, IndexError):
        pass
    raise FrameInvalid("unknown item")
