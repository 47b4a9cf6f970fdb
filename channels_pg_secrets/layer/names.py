"""Channel and group names, checked strictly, and the node that a name belongs to."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache

#: Channels' own limit: "Channel name must be … less than 100 characters".
MAX_NAME_LENGTH = 99
# Channels' patterns end in "$" and use \d and \w, and so let "a\n" and non-ASCII digits pass.
_CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(?:![a-zA-Z0-9\-_.]*)?")
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+")
_PREFIX = re.compile(r"[a-zA-Z0-9\-_.]{1,60}")
_NODE = re.compile(r"\.([0-9a-f]{16})!")

_RULE = "ASCII letters, digits, hyphens, underscores and periods, fewer than 100 characters"


def owner(channel: object) -> int | None:
    """Check a channel's name, and return its node as :func:`node_of` does.

    Raises:
        TypeError: the name is not valid.
    """
    try:
        return _owner(channel)
    except TypeError:
        check_channel(channel)  # what cannot be hashed is no name either
        raise


@lru_cache(maxsize=4096)
def _owner(channel: object) -> int | None:
    return node_of(check_channel(channel))


def check_channel(name: object) -> str:
    """Return a valid channel name, or raise TypeError that says what is wrong with it."""
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and _CHANNEL.fullmatch(name):
        return name
    raise TypeError(
        f"Channel name must be a string of {_RULE}, with at most one '!'; got {_show(name)}"
    )


def check_receivable(name: object) -> str:
    """Return a channel name that ``receive`` takes: a whole one, not only up to the '!'."""
    checked = check_channel(name)
    if checked.endswith("!"):
        raise TypeError(f"receive() takes a full channel name, not one that ends in '!': {name!r}")
    return checked


def check_group(name: object) -> str:
    """Return a valid group name, or raise TypeError that says what is wrong with it."""
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and _GROUP.fullmatch(name):
        return name
    raise TypeError(f"Group name must be a string of {_RULE}; got {_show(name)}")


def check_prefix(name: object) -> str:
    """Return a valid prefix for :func:`new_channel_name`."""
    if isinstance(name, str) and _PREFIX.fullmatch(name):
        return name
    raise TypeError(f"A channel prefix is a string of 1 to 60 {_RULE}; got {_show(name)}")


def new_node_id() -> int:
    """Return a random 63-bit number above zero; 0 stands for senders that are no node."""
    return secrets.randbits(62) + 1


def node_name(node: int) -> str:
    """Return a node as it stands in channel names."""
    return f"{node:016x}"


def new_channel_name(prefix: str, node: int) -> str:
    """Return a channel name that only ``node`` receives on."""
    return f"{check_prefix(prefix)}.{node_name(node)}!{secrets.token_hex(6)}"


def node_of(channel: str) -> int | None:
    """Return the node that a process-specific channel belongs to, if its name says so."""
    match = _NODE.search(channel)
    node = int(match[1], 16) if match else 0
    return node if 0 < node < 2**63 else None


def _show(name: object) -> str:
    return repr(name if not isinstance(name, str) or len(name) <= 120 else name[:120] + "…")
