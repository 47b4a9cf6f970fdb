"""One page."""

from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.urls import path

PAGE = Path(__file__).with_name("page.html")


def page(request: HttpRequest) -> HttpResponse:
    """Return the page; the rest is between it and the consumer."""
    return HttpResponse(PAGE.read_text())


urlpatterns = [path("", page)]
