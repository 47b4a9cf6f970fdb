"""The SQL that gives the owner and the runtime roles of a layer their rights, and no more."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from channels_pg_secrets.readiness import function_names

#: Functions for triggers and other programs; nothing in the layer itself calls them.
SQL_SENDERS = frozenset({"channels_pg_secrets_send_v1", "channels_pg_secrets_group_send_v1"})


@dataclass(frozen=True)
class Grants:
    """Who gets what: the owner runs ``migrate``, the runtime role is what logins are members of."""

    owner: str
    role: str
    database: str
    schema: str

    def before_migrate(self) -> list[str]:
        """Return what an administrator runs once, before the first ``migrate``."""
        owner, role = _quoted(self.owner), _quoted(self.role)
        database, schema = _quoted(self.database), _quoted(self.schema)
        return [
            _create_role(self.owner),
            _create_role(self.role),
            f"GRANT CONNECT ON DATABASE {database} TO {owner}, {role};",
            f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};",
            f"GRANT USAGE ON SCHEMA {schema} TO {role};",
        ]

    def after_migrate(self) -> list[str]:
        """Return what the owner runs after each ``migrate`` of this app."""
        schema, role = _quoted(self.schema), _quoted(self.role)
        return [
            f"GRANT EXECUTE ON FUNCTION {schema}.{_quoted(name)} TO {role};"
            for name in sorted(function_names() | SQL_SENDERS)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            **asdict(self),
            "before_migrate": self.before_migrate(),
            "after_migrate": self.after_migrate(),
        }

    def as_sql(self) -> str:
        """Return one script with comments; running it twice is harmless."""
        return "\n".join(
            [
                "-- Once, as an administrator, before the first migrate. Logins that migrate are",
                f"-- members of {_commented(self.owner)} (OPTIONS['assume_role'] makes them create",
                f"-- as that role), logins at run time members of {_commented(self.role)}, for",
                "-- instance with IN ROLE in the statements by which Vault creates them.",
                *self.before_migrate(),
                "",
                "-- After each migrate of channels_pg_secrets, as owner. The functions run with",
                "-- the owner's rights: the runtime role needs none on the tables.",
                *self.after_migrate(),
                "",
                "-- Whoever logs in at run time and is no member yet:",
                f"-- GRANT {_quoted(_commented(self.role))} TO <each login>;",
            ]
        )


def _create_role(name: str) -> str:
    literal = "'" + name.replace("'", "''") + "'"
    # PostgreSQL has no CREATE ROLE IF NOT EXISTS.
    return (
        f"DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal})"
        f" THEN CREATE ROLE {_quoted(name)} NOLOGIN; END IF; END $do$;"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _commented(name: str) -> str:
    return re.sub(r"\s", " ", name)
