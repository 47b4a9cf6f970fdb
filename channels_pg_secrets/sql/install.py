"""Applies and removes the SQL of this folder."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_CREATED = re.compile(r"^CREATE (?:UNLOGGED )?(TABLE|VIEW|FUNCTION) (\w+)", re.MULTILINE)


def read(name: str) -> str:
    """Return one of the SQL files."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def created(kind: str, name: str) -> list[str]:
    """Return the names of what a file creates; kind is TABLE, VIEW or FUNCTION."""
    return [match[1] for match in _CREATED.findall(read(name)) if match[0] == kind]


def apply(connection: BaseDatabaseWrapper, name: str) -> None:
    """Run one of the SQL files in the connection's current schema. PostgreSQL only.

    Functions come out as executable by their owner alone.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_schema())")
        (schema,) = cursor.fetchone()
        # No parameters, so nothing in the text is taken for a placeholder.
        cursor.execute(read(name).replace("@schema@", schema))
        for function in created("FUNCTION", name):
            cursor.execute(f"REVOKE ALL ON FUNCTION {schema}.{function} FROM PUBLIC")


def remove(connection: BaseDatabaseWrapper, name: str) -> None:
    """Drop what a file created."""
    with connection.cursor() as cursor:
        for function in created("FUNCTION", name):
            cursor.execute(f"DROP FUNCTION IF EXISTS {function}")
        for view in created("VIEW", name):
            cursor.execute(f"DROP VIEW IF EXISTS {view}")
        for table in reversed(created("TABLE", name)):
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
