"""What the README promises, the package declares and tox runs are the same versions."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()
README = (ROOT / "README.md").read_text()
TOX = (ROOT / "tox.ini").read_text()


def lowest(requirements: str) -> dict[str, str]:
    """Return the lower bounds by distribution, such as ``Django: 4.2``."""
    found = re.findall(r"([\w-]+)(?:\[\w+\])?(?:>=|~=)(\d+)(?:\.(\d+))?", requirements)
    return {name: f"{major}.{minor or 0}" for name, major, minor in found}


def test_the_readme_names_the_versions_of_the_classifiers() -> None:
    """The first and the last Django and Python of the classifiers stand in the README."""
    for name in ("Django", "Python"):
        versions = re.findall(
            rf'"(?:Framework|Programming Language) :: {name} :: ([\d.]+)"', PROJECT
        )
        versions = [version for version in versions if "." in version]
        assert f"{name} {versions[0]} to {versions[-1]}" in README


def test_the_lowest_versions_are_what_tox_installs() -> None:
    """Each lower bound of the package's dependencies, and of what it serves, has a pin there."""
    dependencies = re.search(r"^dependencies = \[(.*?)^\]", PROJECT, re.DOTALL | re.MULTILINE)
    extras = re.findall(
        r'^(?:vault|aws|gcp|oauth|crypto|binary) = \["(.*)"\]', PROJECT, re.MULTILINE
    )
    # What users bring themselves, at the versions that the how-to names.
    extras += re.findall(r'^    "((?:asyncpg|sqlalchemy)\b.*)",$', PROJECT, re.MULTILINE)
    pins = re.findall(r"^    lowest: (\S+)$", TOX, re.MULTILINE)
    assert dependencies is not None
    assert lowest("\n".join(pins)) == lowest(dependencies[1] + "\n".join(extras))
