"""There is one page."""

from __future__ import annotations

from django.urls import path

from channels_pg_secrets.demo.project.views import chat

urlpatterns = [path("", chat, name="chat")]
