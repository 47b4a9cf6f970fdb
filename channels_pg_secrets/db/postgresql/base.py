"""Django's PostgreSQL backend with ``CREDENTIALS``."""

from __future__ import annotations

from django.db.backends.postgresql import base

from channels_pg_secrets.db.postgresql.client import DatabaseClient
from channels_pg_secrets.db.postgresql.following import FollowsCredentials


class DatabaseWrapper(FollowsCredentials, base.DatabaseWrapper):
    """``ENGINE = "channels_pg_secrets.db.postgresql"``."""

    client_class = DatabaseClient
