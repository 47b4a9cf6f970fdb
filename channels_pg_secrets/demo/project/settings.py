"""Settings of the demo's chat.

Only two of them are out of the ordinary: ``DATABASES`` and ``CHANNEL_LAYERS`` say where the
credentials come from instead of what they are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Where the demo's servers are and how to ask for credentials; written by the launcher.
DEMO: dict[str, Any] = json.loads(Path(os.environ["CHANNELS_PG_SECRETS_DEMO"]).read_text())

# For example {"ADAPTER": "vault", "ADDRESS": "https://vault.example:8200", "ROLE": "chat"}
CREDENTIALS = DEMO["credentials"]

DATABASES = {
    "default": {
        "ENGINE": "channels_pg_secrets.db.postgresql",
        **DEMO["database"],
        "CREDENTIALS": CREDENTIALS,
    }
}
CHANNEL_LAYERS = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "CONFIG": {**DEMO["database"], "CREDENTIALS": CREDENTIALS},
    }
}

SECRET_KEY = DEMO["secret_key"]
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["channels", "channels_pg_secrets", "channels_pg_secrets.demo.project"]
ROOT_URLCONF = "channels_pg_secrets.demo.project.urls"
ASGI_APPLICATION = "channels_pg_secrets.demo.project.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
