"""What one process says of itself: its counters, and how it is doing. Holds no secret."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from channels_pg_secrets.engines.connection import OpenedConnection
    from channels_pg_secrets.layer.node import Node
    from pg_secrets.source import CredentialSource


def status(node: Node) -> dict[str, Any]:
    """Return one dict that JSON takes (docs/reference/commands.md). Asks nobody; any thread."""
    home = node.homes.current
    supervisor = home.supervisor if home is not None else None
    source, keys = node.engine.source, node.cipher.source
    return {
        "node": node.identity.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "program": Path(sys.argv[0]).name if sys.argv else "",
        "age": round(time.monotonic() - node.created, 1),
        "credentials": None if source is None else described(source),
        "keys": None if keys is None else described(keys),
        "connections": [
            {"connection": name, **_connection(opened)}
            for name, opened in (supervisor.opened() if supervisor is not None else {}).items()
        ],
        "stats": stats(node),
    }


def stats(node: Node) -> dict[str, Any]:
    """Return what is so now, and counters since the start (reference, "Health"). Any thread."""
    home = node.homes.current
    supervisor = home.supervisor if home is not None else None
    health = node.health
    return {
        "prefix": node.options.prefix,
        "node": node.identity.name,
        "home": home.kind if home is not None else None,
        "connected": supervisor.connected if supervisor is not None else [],
        "generation": max(health.generations.values(), default=0),
        "channels": len(node.mailboxes),
        "full_channels": len(node.mailboxes.full),
        "received_bytes_waiting": node.mailboxes.size,
        "sent_bytes_waiting": node.outbox.size,
        "sent": health.sent,
        "received": health.received,
        "refused": health.refused,
        "dropped": sum(health.drops.values()),
        **{f"dropped_{reason}": count for reason, count in health.drops.items()},
        "connects": health.connects,
        "disconnects": health.disconnects,
        "hand_overs": health.hand_overs,
        "rotations": health.rotations,
        "replayed": health.replays,
    }


def described(source: CredentialSource) -> dict[str, Any]:
    """Return a source's counters and ages, whose login it holds, and its last events."""
    held = source.current
    return {
        **source.stats(),
        "user": held.user if held else None,
        "version": held.version if held else None,
        "events": [
            {
                "kind": event.kind,
                "generation": event.generation,
                "at": round(event.at, 3),
                "error": None if event.error is None else str(event.error),
            }
            for event in source.events
        ],
    }


def _connection(opened: OpenedConnection) -> dict[str, Any]:
    info = opened.connection.info
    return {
        "generation": opened.generation,
        "user": info.user,
        "server": f"{info.host}:{info.port}/{info.dbname}",
        "age": round(time.monotonic() - opened.opened_at, 1),
        "parameters": dict(opened.origins),
    }
