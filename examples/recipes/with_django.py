"""Django: an alias of DATABASES whose connections follow the login, without Channels' layers."""

import os
import time

import django
from django.conf import settings
from django.db import close_old_connections, connection

DATABASES = {
    "default": {
        "ENGINE": "channels_pg_secrets.db.postgresql",
        "NAME": os.environ.get("PGDATABASE", "shop"),
        "HOST": os.environ.get("PGHOST", "db.example"),
        "PORT": os.environ.get("PGPORT", "5432"),
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "CREDENTIALS": {
            "ADAPTER": "files",
            "DIRECTORY": os.environ.get("LOGIN", "/etc/database"),
        },
    }
}


def who():
    """Do one question's work as a request does it."""
    close_old_connections()  # Django does so before and after each request, Celery around tasks
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user")
        return cursor.fetchone()[0]


if __name__ == "__main__":
    settings.configure(DATABASES=DATABASES)
    django.setup()
    while True:
        print(who(), flush=True)
        time.sleep(1)
