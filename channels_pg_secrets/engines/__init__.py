"""Engines: what turns the settings of one alias into a channel layer."""

from __future__ import annotations

from channels_pg_secrets.engines.base import Engine
from channels_pg_secrets.engines.connection import OpenedConnection
from channels_pg_secrets.engines.memory import MemoryEngine
from channels_pg_secrets.engines.postgres import PostgresEngine
from channels_pg_secrets.engines.redis import RedisEngine
from channels_pg_secrets.engines.registry import engine_names, find_engine, register_engine

__all__ = [
    "Engine",
    "MemoryEngine",
    "OpenedConnection",
    "PostgresEngine",
    "RedisEngine",
    "engine_names",
    "find_engine",
    "register_engine",
]
