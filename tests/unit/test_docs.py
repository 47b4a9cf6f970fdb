"""What the documentation says is checked against the code, as far as a machine can."""

from __future__ import annotations

import ast
import inspect
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.db import connections
from django.test import override_settings

from channels_pg_secrets import signals
from channels_pg_secrets.__main__ import build_parser
from channels_pg_secrets.checks import check_layers
from channels_pg_secrets.config import DATABASE_KEYS, LAYER_OPTIONS, ORM_KEYS
from channels_pg_secrets.db.postgresql.settings import check_settings
from channels_pg_secrets.engines import PostgresEngine, RedisEngine
from channels_pg_secrets.engines import registry as engine_registry
from channels_pg_secrets.sql.install import created
from pg_secrets import credential_source
from pg_secrets import registry as adapter_registry

if not settings.configured:
    _module = runpy.run_path(str(Path(__file__).parents[1] / "settings.py"))
    settings.configure(**{name: value for name, value in _module.items() if name.isupper()})
django.setup()

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("README.md")),
    REPOSITORY / "adapters" / "README.md",
    REPOSITORY / "README.md",
]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[Any]:
    """Yield each Python block with the page it is on."""
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            place = f"{page.relative_to(REPOSITORY)}:{line}"
            yield pytest.param(page, "\n" * (line - 1) + match[1], id=place)


BLOCKS = list(blocks())


def settings_in(block: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings that a block assigns, as far as they are literals."""
    for node in ast.parse(block).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("CHANNEL_LAYERS", "CREDENTIALS", "DATABASES"):
                yield name, ast.literal_eval(node.value)


@pytest.fixture
def as_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples can be imported, and what a page registers is forgotten afterwards."""
    for example in ("own_engine", "own_adapter"):
        monkeypatch.syspath_prepend(str(REPOSITORY / "examples" / example))
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:8200")
    monkeypatch.setattr(adapter_registry, "_adapters", {})
    monkeypatch.setattr(adapter_registry, "_sources", {})
    monkeypatch.setattr(engine_registry, "_registered", {})


@pytest.mark.usefixtures("as_a_reader")
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_python_block_runs(page: Path, block: str) -> None:
    """Every Python block of the documentation runs, and its tests pass; of a README it compiles."""
    code = compile(block, str(page), "exec")
    if DOCS in page.parents:
        names: dict[str, Any] = {"__name__": "docs"}
        exec(code, names)
        for name, value in names.items():
            # Those that take fixtures are run by pytest: tests/integration/test_fixtures.py.
            if name.startswith("test_") and not inspect.signature(value).parameters:
                value()


@pytest.mark.usefixtures("as_a_reader")
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_settings_shown_are_taken(page: Path, block: str) -> None:
    """Settings in a block are what the strict parser takes, without an error or a warning."""
    for name, value in settings_in(block):
        if name == "CREDENTIALS":
            credential_source(value)
        elif name == "DATABASES":
            for alias, configured in connections.configure_settings(value).items():
                if configured["ENGINE"].startswith("channels_pg_secrets."):
                    check_settings(configured, alias)
        else:
            with override_settings(CHANNEL_LAYERS=value):
                assert check_layers() == []


def test_every_setting_is_in_the_reference() -> None:
    """The settings reference has every key that CONFIG may hold."""
    text = (DOCS / "reference" / "settings.md").read_text()
    keys = DATABASE_KEYS | LAYER_OPTIONS | ORM_KEYS | {"ENGINE", "USING", "LISTEN", "CREDENTIALS"}
    keys |= RedisEngine.settings
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_stats_are_what_the_reference_says() -> None:
    """The keys of stats() are those of the reference, in its order, of the kinds it gives them."""
    text = (DOCS / "reference" / "health.md").read_text()
    section = text.partition("## layer.stats()")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \| ([\w ]+)", section, re.MULTILINE)
    stats = PostgresEngine({"NAME": "app"}).channel_layer().stats()
    assert [key for key, _ in documented] == list(stats)
    kinds = {"counter": int, "gauge": int, "list of texts": list, "text": str}
    for key, kind in documented:
        if stats[key] is None:
            assert kind.strip() == "text or"
        else:
            assert isinstance(stats[key], kinds[kind.strip()]), key
    assert json.loads(json.dumps(stats)) == stats
    page = (DOCS / "howto" / "monitoring.md").read_text()
    gauges = {key for key, kind in documented if kind.strip() == "gauge"}
    assert set(re.findall(r'^    "(\w+)",$', page, re.MULTILINE)) == gauges


def test_signals_are_what_the_reference_says() -> None:
    """The reference has every signal, and no other."""
    text = (DOCS / "reference" / "health.md").read_text()
    section = text.partition("## Signals")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == signals.__all__


def test_every_command_option_is_in_the_reference() -> None:
    """The reference of commands has every option of all of them, and no other."""
    text = (DOCS / "reference" / "commands.md").read_text()
    command = load_command_class("channels_pg_secrets", "channels_pg_secrets")
    managing = command.create_parser("manage.py", "channels_pg_secrets")
    options = {"--version", "--database"}  # the second is of manage.py check
    for parser in (build_parser(), managing):
        options |= options_of(parser)
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == options - {"--help"}


def options_of(parser: Any) -> set[str]:
    """Return the options of a parser's subcommands that are their own."""
    (subparsers,) = (action for action in parser._actions if hasattr(action.choices, "items"))
    actions = [action for each in subparsers.choices.values() for action in each._actions]
    found = {option for action in actions for option in action.option_strings}
    inherited = {option for action in parser._actions for option in action.option_strings}
    return {option for option in found - inherited if option.startswith("--")}


def test_every_table_is_in_the_architecture() -> None:
    """The architecture page has every table that the migration creates."""
    text = (DOCS / "explanation" / "architecture.md").read_text()
    tables = (name.removeprefix("channels_pg_secrets_") for name in created("TABLE", "tables.sql"))
    assert [name for name in tables if not re.search(rf"_{name}`", text)] == []


def test_tests_that_are_named_exist() -> None:
    """Every test that a page names as proof is there."""
    written = "".join(file.read_text() for file in (REPOSITORY / "tests").rglob("test_*.py"))
    for page in DOCS.rglob("*.md"):
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`(test_\w+)`", prose):
            assert f"def {name}(" in written, f"{page.name} names {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS not in page.parents])
def test_links_of_a_readme_lead_somewhere(page: Path) -> None:
    """Every relative link of a README is to a file that exists; Sphinx looks after the others."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
