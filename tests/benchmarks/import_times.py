"""How long it takes to import the packages, and to build each adapter with what it imports."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

#: Settings that are enough to build an adapter; nothing is sent to these places.
_PLACE = "http://127.0.0.1:1"
ADAPTERS: dict[str, dict[str, Any]] = {
    "env": {},
    "files": {"DIRECTORY": "/nonexistent"},
    "command": {"COMMAND": ["/bin/false"]},
    "chain": {"ADAPTERS": ["env"]},
    "vault": {"ADDRESS": _PLACE, "ROLE": "app", "AUTH": {"METHOD": "token", "TOKEN": "t"}},
    "aws": {"SECRET": "app", "REGION": "eu-central-1"},
    "rds_iam": {"HOST": "db.example", "USERNAME": "app", "REGION": "eu-central-1"},
    "gcp": {"SECRET": "app", "PROJECT": "local"},
    "oauth": {"TOKEN_URL": "https://127.0.0.1:1/", "CLIENT_ID": "app", "CLIENT_SECRET": "s"},
}

_TIMED = """
import sys, time
sys.argv[1:2] and exec(sys.argv[1])
began = time.perf_counter()
exec(sys.argv[2])
print((time.perf_counter() - began) * 1e3)
"""
_BEFORE = "from pg_secrets.registry import credential_adapter"
_DJANGO = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["channels", "channels_pg_secrets"])
django.setup()
"""


def statements() -> dict[str, tuple[str, str]]:
    """Return what is timed, each with what is imported before the clock starts."""
    layer = "from channels_pg_secrets import ChannelLayer; ChannelLayer(NAME='app')"
    found = {
        "`import psycopg`, for comparison": ("", "import psycopg"),
        "`import pg_secrets`, psycopg included": ("", "import pg_secrets"),
        "`import pg_secrets`, the rest": ("import psycopg", "import pg_secrets"),
        "`import channels_pg_secrets`": ("", "import channels_pg_secrets"),
        "the first `ChannelLayer`, after Django": (_DJANGO, layer),
    }
    for name, config in ADAPTERS.items():
        build = f"credential_adapter({ {'ADAPTER': name, **config}!r})"
        found[f"adapter `{name}`, built"] = (_BEFORE, build)
    return found


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return the median and the lowest of the rounds in milliseconds, each in a new process."""
    timed = statements()
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, (before, statement) in timed.items():
            done = subprocess.run(
                [sys.executable, "-c", _TIMED, before, statement],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            taken[name].append(json.loads(done.stdout))
    return {
        name: {"median": round(statistics.median(times), 1), "lowest": round(min(times), 1)}
        for name, times in taken.items()
    }
