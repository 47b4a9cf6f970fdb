"""What the ASGI server runs."""

from __future__ import annotations

import os

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "channels_pg_secrets.demo.project.settings")
django.setup()

# Imported late, since they need the apps to be ready.
from channels_pg_secrets.demo.project.consumers import ChatConsumer  # noqa: E402
from channels_pg_secrets.demo.project.figures import FigureBoard, Lifespan  # noqa: E402
from pg_secrets import credential_source  # noqa: E402

# The very source the channel layer and the ORM use: one per equal configuration and process.
board = FigureBoard(
    credential_source(settings.CREDENTIALS),
    server=int(os.environ.get("CHANNELS_PG_SECRETS_DEMO_SERVER", "1")),
    adapter=settings.CREDENTIALS["ADAPTER"],
    rotate_every=settings.DEMO["rotate_every"],
)

rooms = URLRouter(
    [re_path(r"^rooms/(?P<room>[a-z0-9-]{1,40})/$", ChatConsumer.as_asgi(board=board))]
)

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": AllowedHostsOriginValidator(rooms),
        "lifespan": Lifespan(board),
    }
)
