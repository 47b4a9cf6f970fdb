"""Configures Django for the tests in this folder."""

from __future__ import annotations

import runpy
from pathlib import Path

import django
from django.conf import settings

if not settings.configured:
    _module = runpy.run_path(str(Path(__file__).parents[2] / "settings.py"))
    settings.configure(**{name: value for name, value in _module.items() if name.isupper()})
django.setup()
