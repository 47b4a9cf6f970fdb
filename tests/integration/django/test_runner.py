"""``manage.py test`` in a project whose layer follows the test database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pg_secrets.testing.database import FreshDatabase

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["channels", "channels_pg_secrets"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", **{database}}}}}
CHANNEL_LAYERS = {{
    "default": {{"CONFIG": {{"USING": "default"}}}},
    "other": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}},
}}
TEST_RUNNER = {runner!r}
"""
TESTS = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection
from django.test import TestCase, override_settings

def talk(alias="default"):
    layer = get_channel_layer(alias)
    async_to_sync(layer.send)("here", {"type": "x"})
    assert async_to_sync(layer.receive)("here") == {"type": "x"}

class Tests(TestCase):
    def test_talk(self):
        assert connection.settings_dict["NAME"].startswith("test_")
        talk()
        talk("other")

    def test_talk_otherwise(self):
        config = {"USING": "default", "prefix": "other"}
        with override_settings(CHANNEL_LAYERS={"default": {"CONFIG": config}}):
            talk()
        talk()
"""


@pytest.mark.timeout(180)
def test_the_runner_leaves_no_test_database(database: FreshDatabase, tmp_path: Path) -> None:
    """With channels_pg_secrets.testing.Runner a run ends well, and its database is dropped."""
    database.execute(f'ALTER ROLE "{database.owner.user}" CREATEDB')
    runner = "channels_pg_secrets.testing.Runner"
    settings = SETTINGS.format(database=database.settings(database.owner), runner=runner)
    (tmp_path / "project.py").write_text(settings)
    (tmp_path / "test_talk.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "django", "test", "--noinput", "--settings=project"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    left = database.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test%'")
    for (name,) in left:
        database.server.drop_database(name)
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
    assert left == []
