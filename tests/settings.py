"""A minimal Django project for the tests; each conftest that needs Django configures it."""

from __future__ import annotations

from typing import Any

SECRET_KEY = "not a secret"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_pg_secrets"]
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "project",
        "HOST": "db.invalid",
        "USER": "someone",
        "PASSWORD": "static-password",
        "OPTIONS": {"sslmode": "prefer"},
    },
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    "leased": {
        "ENGINE": "channels_pg_secrets.db.postgresql",
        "NAME": "project",
        "HOST": "db.invalid",
        "CREDENTIALS": {"ADAPTER": "env", "USERNAME": "LEASED_USER", "PASSWORD": "LEASED_PASSWORD"},
    },
}
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {}
