"""The reference of errors and the source do not drift apart."""

from __future__ import annotations

import re
from pathlib import Path

import channels_pg_secrets
from channels_pg_secrets import errors

PACKAGE = Path(channels_pg_secrets.__file__).parent
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "errors.md"


def test_every_id_is_documented_and_every_documented_id_exists() -> None:
    """An id added to the checks without a line in docs/reference/errors.md fails here."""
    sources = [path for path in PACKAGE.rglob("*.py") if "demo" not in path.parts]
    text = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r'[".]([EW]\d{3})"', text))
    documented = set(re.findall(r"^\| `([EW]\d{3})` \|", REFERENCE.read_text(), re.MULTILINE))
    assert documented == used


def test_every_error_is_documented() -> None:
    """Each exception class of the package stands in the reference."""
    text = REFERENCE.read_text()
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert len(classes) > 5
    assert [name for name in classes if f"{name}`" not in text] == []
