"""What the demo needs to be installed; imported before anything that needs it."""

from __future__ import annotations

import importlib.util

from channels_pg_secrets.demo.errors import DemoError

INSTALL = "pip install 'channels-pg-secrets[demo]'"
#: What an adapter needs besides, and the command that brings it.
_OF_ADAPTERS = {
    "vault": (["hvac"], INSTALL),
    "aws": (
        ["boto3", "moto", "flask"],
        "pip install 'channels-pg-secrets[demo,aws]' 'moto[server,secretsmanager]'",
    ),
    "gcp": (["google.cloud.secretmanager_v1"], "pip install 'channels-pg-secrets[demo,gcp]'"),
}


def check_extras(adapter: str) -> None:
    """Raise :class:`DemoError` with the command to run if a package is not there."""
    besides, install = _OF_ADAPTERS.get(adapter, ([], INSTALL))
    missing = [name for name in ["uvicorn", "websockets", *besides] if not _installed(name)]
    if missing:
        raise DemoError(f"The demo needs {' and '.join(missing)}: run {install}")
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise DemoError(f"The demo needs psycopg with libpq: run {INSTALL}") from error


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
