"""The types of the installed package, as projects outside the repo see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is in the extra 'types'")

EXAMPLES = Path(__file__).parents[2] / "examples"


def check(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run mypy as a project in ``folder`` would."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.cache"]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.long
def test_a_consumer_of_the_public_names_passes_strict_mypy(tmp_path: Path) -> None:
    """mypy --strict finds nothing in a project outside the repo, and would find a wrong type."""
    consumer = Path(shutil.copy(Path(__file__).with_name("consumer.py"), tmp_path))
    done = check(tmp_path, consumer.name)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = consumer.read_text().replace("number: int", "number: str")
    consumer.write_text(wrong)
    done = check(tmp_path, consumer.name)
    assert done.returncode == 1
    assert '(expression has type "int", variable has type "str")' in done.stdout


@pytest.mark.long
def test_the_examples_pass_strict_mypy(tmp_path: Path) -> None:
    """mypy --strict finds nothing in them, Django's and Channels' lack of types apart."""
    files = {
        "own_engine": ["myproject/engines.py", "myproject/db/base.py"],
        "own_adapter": ["test_team_safe.py"],
        "own_layer_engine": ["mirror.py"],
        "chat": ["chat/consumers.py"],
    }
    for example in files:
        shutil.copytree(EXAMPLES / example, tmp_path / example)
    done = check(
        tmp_path,
        "--ignore-missing-imports",
        "--allow-subclassing-any",
        "--explicit-package-bases",
        *(f"{example}/{file}" for example, names in files.items() for file in names),
        MYPYPATH=os.pathsep.join(files),
    )
    assert done.returncode == 0, done.stdout + done.stderr
