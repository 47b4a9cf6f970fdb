"""Who a node is to the others."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from channels_pg_secrets.layer.item import FrameKey
from channels_pg_secrets.layer.names import new_node_id, node_name


@dataclass(eq=False)
class Identity:
    """One process's entry in the node table. A forked child gets one of its own.

    ``notify_channel`` is random, since its name is all that a stranger in the same database would
    need to send to it; ``key`` keeps out those who may read it all the same (``pg_monitor``).
    """

    prefix: str
    node: int = field(default_factory=new_node_id)
    notify_channel: str = field(default_factory=lambda: f"cps_{secrets.token_hex(16)}", repr=False)
    key: FrameKey = field(default_factory=FrameKey.generate, repr=False)
    #: Which life of the tables the node is registered in; 0 before the first registration.
    incarnation: int = 0
    #: The number of this node's row there. Another one: the row is new, and what went with the one
    #: before is lost, be it that a registration was not answered.
    entry: int = 0
    #: How often the layer was flushed, as far as this node knows.
    epoch: int = 0
    #: The tables hold what they had lost of this node; false until that is certain.
    caught_up: bool = True

    @property
    def name(self) -> str:
        """The node as it stands in channel names."""
        return node_name(self.node)
