"""The layers that are compared, each set up as its own documentation says, with the same limits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from tests.benchmarks.floors import BareFrame, BareNotify, BareRow

#: No layer may refuse or drop a message for capacity while it is measured.
CAPACITY = 1_000_000
OURS = "channels_pg_secrets"
#: Shown in this order.
NAMES = (
    OURS,
    "channels_postgres",
    "channels_redis",
    "channels_redis_pubsub",
    "memory",
    "floor",
    "floor_row",
    "floor_frame",
)
FLOORS = ("floor", "floor_row", "floor_frame")
PACKAGES = {
    "channels_postgres": "channels_postgres",
    "channels_redis": "channels_redis",
    "channels_redis_pubsub": "channels_redis",
}
ON_REDIS = ("channels_redis", "channels_redis_pubsub")
ON_POSTGRES = (OURS, "channels_postgres", *FLOORS)


def missing(name: str) -> str | None:
    """Return what has to be installed for a layer, or None."""
    package = PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        return f"{package} is not installed: pip install 'channels-pg-secrets[bench]'"
    return None


def preload() -> None:
    """Import what the layers need, so that no measurement pays for it."""
    for module in ("channels_pg_secrets.layer.channel_layer", "pg_secrets.files"):
        import_module(module)
    if find_spec("channels_postgres"):
        import_module("channels_postgres.core")
    if find_spec("channels_redis"):
        import_module("channels_redis.core")
        import_module("channels_redis.pubsub")


def build(name: str, place: dict[str, Any]) -> BaseChannelLayer:
    """Return a new layer on the servers and databases of ``place``."""
    builders: dict[str, Callable[[dict[str, Any]], Any]] = {
        OURS: _ours,
        "channels_postgres": _channels_postgres,
        "channels_redis": _redis_core,
        "channels_redis_pubsub": _redis_pubsub,
        "memory": lambda place: InMemoryChannelLayer(capacity=CAPACITY),
        "floor": lambda place: BareNotify(place["database"]),
        "floor_row": lambda place: BareRow(place["database"]),
        "floor_frame": lambda place: BareFrame(place["database"]),
    }
    return builders[name](place)


def _ours(place: dict[str, Any]) -> BaseChannelLayer:
    from channels_pg_secrets import ChannelLayer

    config = dict(place["database"])
    if "login" in place:
        del config["USER"], config["PASSWORD"]
        config["CREDENTIALS"] = {"ADAPTER": "files", "PATH": place["login"]}
    layer = ChannelLayer(**config, capacity=CAPACITY)
    if "rows_kept" in place:
        _keep_rows(layer, place["rows_kept"])
    return layer


def _keep_rows(layer: Any, seconds: float) -> None:
    """Have rows kept for less than the minute that a layer insists on: for --quick only."""
    from channels_pg_secrets.layer import supervisor
    from channels_pg_secrets.layer.options import Options

    class Brief(Options):
        @property
        def row_expiry(self) -> float:
            return seconds

    layer._options = Brief(**vars(layer._options))
    supervisor.HEARTBEAT = seconds / 8


def _channels_postgres(place: dict[str, Any]) -> BaseChannelLayer:
    from channels_postgres.core import PostgresChannelLayer

    wanted = {"ATOMIC_REQUESTS": False, "AUTOCOMMIT": True, "CONN_MAX_AGE": 0, "TIME_ZONE": None}
    return PostgresChannelLayer(
        **wanted,
        **place["database"],
        ENGINE="django.db.backends.postgresql",
        OPTIONS={},
        # As its README has it; by default there are four.
        PSYCOPG_OPTIONS={"min_size": 10, "max_size": 10},
        expiry=int(place.get("rows_kept", 60)),
    )


def _redis_core(place: dict[str, Any]) -> BaseChannelLayer:
    return _redis("channels_redis.core", "RedisChannelLayer", place)


def _redis_pubsub(place: dict[str, Any]) -> BaseChannelLayer:
    return _redis("channels_redis.pubsub", "RedisPubSubChannelLayer", place)


def _redis(module: str, layer: str, place: dict[str, Any]) -> BaseChannelLayer:
    found = getattr(import_module(module), layer)
    # Newer redis-py gives up reading sooner than channels_redis waits for a message.
    return found(hosts=[{"address": place["redis"], "socket_timeout": None}], capacity=CAPACITY)
