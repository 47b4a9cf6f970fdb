"""Tables and functions of protocol version 1; nothing on databases other than PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import migrations

from channels_pg_secrets.sql import install

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import StateApps

FILES = ("tables.sql", "internals_v1.sql", "functions_v1.sql")


def apply(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Create everything."""
    if schema_editor.connection.vendor == "postgresql":
        for name in FILES:
            install.apply(schema_editor.connection, name)


def remove(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Drop everything."""
    if schema_editor.connection.vendor == "postgresql":
        for name in reversed(FILES):
            install.remove(schema_editor.connection, name)


class Migration(migrations.Migration):
    """The first schema of the layer."""

    initial = True
    operations = [  # noqa: RUF012  (Django's own form)
        migrations.RunPython(apply, remove)
    ]
