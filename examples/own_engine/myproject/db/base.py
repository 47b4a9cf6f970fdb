"""A Django database backend that fetches its password anew for every connection."""

from pathlib import Path
from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's backend for PostgreSQL, with a password of this very moment."""

    #: Keys of our own that CONFIG may hold. Optional: with it the layer refuses all other keys.
    channel_layer_settings = frozenset({"PASSWORD_FILE"})

    def get_connection_params(self) -> dict[str, Any]:
        """Called for each new connection, of the ORM and of the channel layer alike."""
        params: dict[str, Any] = super().get_connection_params()
        # Ask your own service here. It may block, but not for ever: give it a time-out.
        params["password"] = Path(self.settings_dict["PASSWORD_FILE"]).read_text().strip()
        return params
