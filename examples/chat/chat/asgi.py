"""What the ASGI server runs."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
http = get_asgi_application()

from chat.consumers import Chat  # noqa: E402 - needs the settings

websockets = URLRouter([path("ws/", Chat.as_asgi())])
application = ProtocolTypeRouter({"http": http, "websocket": websockets})
