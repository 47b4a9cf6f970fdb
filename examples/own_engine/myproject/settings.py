"""A project whose own database backend knows where passwords come from."""

import os

DATABASE = {
    "NAME": os.environ.get("PGDATABASE", "myproject"),
    "HOST": os.environ.get("PGHOST", "127.0.0.1"),
    "PORT": os.environ.get("PGPORT", "5432"),
    "USER": os.environ.get("PGUSER", "myproject"),
    "PASSWORD_FILE": os.environ.get("PASSWORD_FILE", "password"),
}
DATABASES = {"default": {"ENGINE": "myproject.db", **DATABASE}}
CHANNEL_LAYERS = {
    "default": {"ENGINE": os.environ.get("ENGINE", "myproject.db"), "CONFIG": DATABASE},
}
INSTALLED_APPS = ["channels", "channels_pg_secrets"]
SECRET_KEY = "only for this example"
USE_TZ = True
