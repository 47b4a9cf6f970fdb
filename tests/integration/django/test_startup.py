"""What a project of its own gets to hear while it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OURS = "channels_pg_secrets"
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = [{apps}]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
CHANNEL_LAYERS = {{"default": {layer}}}
"""


def project(folder: Path, layer: str, *apps: str) -> Path:
    """Write a project with an app ``chat`` whose models module asks for the layer."""
    (folder / "chat").mkdir()
    (folder / "chat" / "__init__.py").touch()
    (folder / "chat" / "models.py").write_text(
        "from channels.layers import get_channel_layer\n\nlayer = get_channel_layer()\n"
    )
    names = ", ".join(map(repr, apps))
    (folder / "project.py").write_text(SETTINGS.format(layer=layer, apps=names))
    return folder


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the project and return all that it says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "DJANGO_SETTINGS_MODULE": "project"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_a_models_module_may_ask_for_the_layer(tmp_path: Path) -> None:
    """ENGINE beside CONFIG is understood before apps are ready, whatever the order of the apps."""
    layer = "{'ENGINE': 'memory'}"
    said = run(project(tmp_path, layer, "chat", OURS), "-m", "django", "check")
    assert "no issues" in said, said


BUILD = """
import django
django.setup()
from channels_pg_secrets import ChannelLayer
ChannelLayer(ENGINE="memory")
"""


@pytest.mark.parametrize(("apps", "times"), [(("chat",), 1), (("chat", OURS), 0)])
def test_a_layer_without_the_app_is_said_when_it_is_built(
    tmp_path: Path, apps: tuple[str, ...], times: int
) -> None:
    """BACKEND alone is enough for a layer, and the log says once that migrate will not know it."""
    layer = "{'BACKEND': 'channels_pg_secrets.ChannelLayer', 'CONFIG': {'ENGINE': 'memory'}}"
    said = run(project(tmp_path, layer, *apps), "-c", BUILD)
    assert said.count("not in INSTALLED_APPS: migrate will not create its tables") == times, said
    assert "Traceback" not in said
