"""What the demo needs to be installed; imported before anything that needs it."""

from __future__ import annotations

import importlib.util

from channels_pg_secrets.demo.errors import DemoError

INSTALL = "pip install 'channels-pg-secrets[demo]'"


def check_extras(adapter: str) -> None:
    """Raise :class:`DemoError` with the command to run if a package is not there."""
    needed = ["uvicorn", "websockets"] + (["hvac"] if adapter == "vault" else [])
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f"The demo needs {' and '.join(missing)}: run {INSTALL}")
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise DemoError(f"The demo needs psycopg with libpq: run {INSTALL}") from error
