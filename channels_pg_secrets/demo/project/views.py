"""The page."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

ROOMS = ("lobby", "kitchen", "garden")


@require_GET
def chat(request: HttpRequest) -> HttpResponse:
    """Show the chat; everything that moves comes over the WebSocket."""
    context = {
        "rooms": ROOMS,
        "adapter": settings.CREDENTIALS["ADAPTER"],
        "rotate_every": settings.DEMO["rotate_every"],
    }
    return render(request, "chat/chat.html", context)
