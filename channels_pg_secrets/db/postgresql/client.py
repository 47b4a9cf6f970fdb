"""``manage.py dbshell`` with the same credentials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.backends.postgresql import client

from channels_pg_secrets.db.postgresql.settings import source_of

_FROM_LIBPQ = {"user": "USER", "password": "PASSWORD"}
_GAPS = {"host": "HOST", "port": "PORT", "dbname": "NAME"}


class DatabaseClient(client.DatabaseClient):
    """Runs psql as whoever the source names now."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return the command line of psql and its environment, where the password stands."""
        source = source_of(settings_dict, "default")
        settings = dict(settings_dict)
        if source is not None:
            found = source.get().connection_params()
            settings |= {_FROM_LIBPQ[key]: found[key] for key in _FROM_LIBPQ if key in found}
            gaps = {name: found[key] for key, name in _GAPS.items() if key in found}
            settings |= {name: value for name, value in gaps.items() if not settings.get(name)}
        return super().settings_to_cmd_args_env(settings, list(parameters))
