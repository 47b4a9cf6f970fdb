"""What travels between nodes, and what a hostile sender might make of it."""

from __future__ import annotations

import hashlib
import hmac
from binascii import b2a_base64
from random import Random

import pytest

from channels_pg_secrets.layer.item import (
    MAX_INLINE,
    MAX_ITEM,
    FrameInvalid,
    FrameKey,
    decode_item,
    membership_item,
    message_item,
)


def sealed(key: FrameKey, frame: bytes) -> bytes:
    """Do what the SQL function does with the two pads."""
    inner, outer = key.pads()
    digest = hashlib.sha256(outer + hashlib.sha256(inner + frame).digest()).digest()
    return b2a_base64(digest[:15], newline=False) + frame


@pytest.mark.parametrize("kind", ["c", "g"])
@pytest.mark.parametrize("body", [b"", b"\x00,\xff \n", b"x" * MAX_INLINE])
def test_messages_survive_the_journey(kind: str, body: bytes) -> None:
    """A message's name and body come out as they went in, without a comma between."""
    data = message_item(kind, "some.name!x", body)
    assert b"," not in data
    item = decode_item(data)
    assert (item.kind, item.name, item.body, item.json) == (kind, "some.name!x", body, False)


def test_the_largest_inline_message_fits() -> None:
    """The longest name with the largest inline body stays within an item's limit."""
    assert len(message_item("c", "n" * 99, b"x" * MAX_INLINE)) <= MAX_ITEM


@pytest.mark.parametrize("kind", ["c", "g"])
def test_a_message_that_lies_in_a_row(kind: str) -> None:
    """Without a body the kind is a capital letter."""
    assert decode_item(message_item(kind, "name", None))[:3] == (kind.upper(), "name", None)


@pytest.mark.parametrize("kind", ["+", "-"])
def test_memberships_survive_the_journey(kind: str) -> None:
    """A join or leave names group, channel, and the token of whoever waits for it."""
    item = decode_item(membership_item(kind, "group", "channel!x", "1f"))
    assert (item.kind, item.name, item.channel, item.token) == (kind, "group", "channel!x", "1f")


@pytest.mark.parametrize("data", [b"jcname e30=", b"jgname e30=", b"jCname", b"jGname"])
def test_json_from_sql(data: bytes) -> None:
    """A "j" before the kind marks a body that is JSON."""
    item = decode_item(data)
    assert item.json
    assert item.name == "name"


@pytest.mark.parametrize(
    "data", [b"", b"j", b"x", b"\xff", b"c\xff e30=", b"cname e3", b"+g \xff", b"jj", b"\x00name"]
)
def test_what_is_no_item_is_refused(data: bytes) -> None:
    """Anything malformed raises FrameInvalid and nothing else."""
    with pytest.raises(FrameInvalid):
        decode_item(data)


@pytest.mark.parametrize("kind", [b"", *(bytes([code]) for code in b"cgCG+-wfjx\x00\xff")])
def test_no_bytes_raise_anything_but_frame_invalid(kind: bytes) -> None:
    """Decoding arbitrary bytes gives an item or FrameInvalid."""
    random = Random(7)
    for length in range(200):
        try:
            assert decode_item(kind + random.randbytes(length)).kind in "cgCG+-wf"
        except FrameInvalid:
            continue


def test_a_frame_sealed_with_the_pads_opens() -> None:
    """The HMAC made of the two pads is the one that open() expects; numbers are hexadecimal."""
    key = FrameKey.generate()
    frame = key.open(sealed(key, b"ff 10 cname e30=,w"))
    assert frame == (255, 16, b"cname e30=,w")


def test_the_pads_are_those_of_rfc_2104() -> None:
    """The construction is HMAC-SHA256."""
    key = FrameKey.of(b"k" * 32)
    expected = hmac.digest(b"k" * 32, b"1 1 x", "sha256")[:15]
    assert sealed(key, b"1 1 x") == b2a_base64(expected, newline=False) + b"1 1 x"


def test_every_changed_bit_is_noticed() -> None:
    """A payload with any one bit turned does not open."""
    key = FrameKey.generate()
    payload = sealed(key, b"1 2 cname e30=")
    for position in range(len(payload) * 8):
        forged = bytearray(payload)
        forged[position // 8] ^= 1 << position % 8
        with pytest.raises(FrameInvalid):
            key.open(bytes(forged))


def test_another_nodes_frame_does_not_open() -> None:
    """A frame for one node is of no use to another."""
    payload = sealed(FrameKey.generate(), b"1 2 w")
    with pytest.raises(FrameInvalid, match="authentic"):
        FrameKey.generate().open(payload)


@pytest.mark.parametrize("frame", [b"", b" ", b"1", b"1 2", b"x y z", b"1  z", b"\xff \xff \xff"])
def test_authentic_nonsense_is_refused(frame: bytes) -> None:
    """What is sealed and no frame raises FrameInvalid too."""
    key = FrameKey.generate()
    with pytest.raises(FrameInvalid, match="malformed"):
        key.open(sealed(key, frame))


@pytest.mark.parametrize("length", [*range(40), 7999])
def test_arbitrary_payloads_are_refused(length: int) -> None:
    """No payload made without the key opens or raises anything but FrameInvalid."""
    with pytest.raises(FrameInvalid):
        FrameKey.of(b"k" * 32).open(Random(length).randbytes(length))


def test_a_key_is_in_no_repr() -> None:
    """repr() of a key does not show it."""
    assert repr(b"k" * 32)[2:-1] not in repr(FrameKey.of(b"k" * 32))
