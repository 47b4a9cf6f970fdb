"""A chat whose database login is kept in files, or in a Vault."""

import os
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent

if "VAULT_ADDR" in os.environ:
    CREDENTIALS = {"ADAPTER": "vault", "ROLE": "chat"}
else:
    CREDENTIALS = {"ADAPTER": "files", "DIRECTORY": str(BASE / "secret")}

DATABASES = {
    "default": {
        "ENGINE": "channels_pg_secrets.db.postgresql",
        "NAME": "chat",
        "HOST": os.environ.get("PGHOST", "127.0.0.1"),
        "PORT": os.environ.get("PGPORT", "5432"),
        "OPTIONS": {"assume_role": "chat"},
        "CREDENTIALS": CREDENTIALS,
    }
}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_pg_secrets.ChannelLayer", "CONFIG": {"USING": "default"}}
}

INSTALLED_APPS = ["channels", "channels_pg_secrets"]
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
SECRET_KEY = os.environ.get("SECRET_KEY", "only for the tutorial")
DEBUG = True
USE_TZ = True
