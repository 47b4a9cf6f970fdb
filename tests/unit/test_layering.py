"""Which package may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "pg_secrets": ROOT / "adapters" / "pg_secrets",
    "channels_pg_secrets": ROOT / "channels_pg_secrets",
}
SDKS = (
    "hvac",
    "boto3",
    "botocore",
    "google",
    "azure",
    "channels_redis",
    "redis",
    "psycopg_pool",
    "asyncpg",
)


def modules(package: str) -> dict[str, Path]:
    """Return the package's modules by dotted name."""
    folder = PACKAGES[package]
    found = {}
    for path in folder.rglob("*.py"):
        parts = (package, *path.relative_to(folder).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def imports(tree: ast.AST, name: str, known: dict[str, Path]) -> Iterator[str]:
    """Yield what a module imports while it is imported: not in functions, not for typing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = known[name].name == "__init__.py"
                package = name if inside else name.rpartition(".")[0]
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            # Of "from package import submodule" only the submodule is meant.
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (target if target in known else base for target in names)
        else:
            yield from imports(node, name, known)


def graph(package: str) -> dict[str, set[str]]:
    """Return what each module imports from its own package."""
    known = modules(package)
    edges = {}
    for name, path in known.items():
        wanted = set(imports(ast.parse(path.read_text()), name, known))
        edges[name] = {target for target in wanted if target in known and target != name}
    return edges


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the first cycle found, or an empty list."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges[name]):
            found = visit(target, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    for name in sorted(edges):
        found = visit(name, [])
        if found:
            return found
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_there_is_no_import_cycle(package: str) -> None:
    """No module imports itself by way of others."""
    edges = graph(package)
    assert len(edges) > 5
    assert cycle(edges) == []


def test_cycles_are_found() -> None:
    """The search itself finds a cycle where there is one, and none where there is none."""
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_credentials_know_neither_django_nor_channels() -> None:
    """No module of pg_secrets imports Django, Channels, asgiref or the layer, anywhere in it."""
    known = modules("pg_secrets")
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            wanted = []
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                wanted = [node.module or ""]
            roots = {target.partition(".")[0] for target in wanted}
            forbidden = roots & {"django", "channels", "asgiref", "channels_pg_secrets"}
            assert not forbidden, f"{name} imports {forbidden}"


def loaded_by(statement: str) -> set[str]:
    """Return the names of the top-level modules that a statement loads in a new process."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_loads_no_sdk(package: str) -> None:
    """Importing a package loads no store's client, whether it is installed or not."""
    assert loaded_by(f"import {package}").isdisjoint(SDKS)


def test_importing_engines_loads_no_sdk() -> None:
    """Importing all engines loads none of the packages that some of them need."""
    engines = "from django.conf import settings; settings.configure(); "
    assert loaded_by(f"{engines} import channels_pg_secrets.engines").isdisjoint(SDKS)


def test_importing_credentials_loads_no_framework() -> None:
    """Importing pg_secrets and all that it needs loads neither Django nor Channels."""
    loaded = loaded_by("import pg_secrets, pg_secrets.connect, pg_secrets.registry")
    assert loaded.isdisjoint({"django", "channels", "asgiref", "channels_pg_secrets"})
    assert "pg_secrets" in loaded


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package: str) -> None:
    """Everything in __all__ can be imported."""
    module = __import__(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
