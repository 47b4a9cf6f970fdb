"""A fresh database with an owner, a runtime role and as many logins as a test wants."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from pg_secrets.credentials import Credentials, Lease
from pg_secrets.testing.postgres import PostgresServer


@dataclass(frozen=True)
class Login:
    """A role that may log in, with its password."""

    user: str
    password: str = field(repr=False)


class FreshDatabase:
    """One database of its own on a running server.

    ``owner`` is a login that owns the database (and so may migrate it), ``runtime`` a group role
    that owns nothing and whose members are the logins made by :meth:`login`. :meth:`drop` removes
    the database and every one of its roles, those a secret manager made included.
    """

    def __init__(self, server: PostgresServer, name: str | None = None) -> None:
        self.server = server
        self.name = name or f"db_{secrets.token_hex(4)}"
        self.owner = Login(f"{self.name}_owner", secrets.token_urlsafe(12))
        self.runtime = f"{self.name}_runtime"
        self._numbers = itertools.count(1)

    def create(self) -> None:
        """Create the roles and the database; only they and the superuser may connect to it."""
        with self.server.connect() as server:
            for statement in (
                "CREATE ROLE {owner} LOGIN PASSWORD {password}",
                "CREATE ROLE {runtime} NOLOGIN",
                "CREATE DATABASE {database} OWNER {owner}",
                "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
                "GRANT CONNECT ON DATABASE {database} TO {runtime}",
            ):
                server.execute(self._named(statement, password=self.owner.password))
        with self.server.connect(self.name) as database:
            database.execute(self._named("ALTER SCHEMA public OWNER TO {owner}"))
            # Before PostgreSQL 15 everybody may create there.
            database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    def drop(self) -> None:
        """Remove the database and its roles, ending the sessions that are still open."""
        members = (
            "SELECT member::regrole::text FROM pg_auth_members"
            " WHERE roleid::regrole::text = ANY(%s)"
        )
        with self.server.connect() as server:
            server.execute(self._named("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))
            known = server.execute(members, ([self.owner.user, self.runtime],)).fetchall()
            for role in {str(member) for (member,) in known} | {self.owner.user, self.runtime}:
                server.execute(f"DROP ROLE IF EXISTS {_quoted(role)}".encode())

    def login(self, user: str | None = None, password: str | None = None) -> Login:
        """Create a login that has the runtime role's rights and no others."""
        login = Login(
            user or f"{self.name}_login_{next(self._numbers)}",
            password or secrets.token_urlsafe(12),
        )
        create = "CREATE ROLE {user} LOGIN PASSWORD {password} IN ROLE {runtime}"
        self.server.execute(self._named(create, user=login.user, password=login.password))
        return login

    def set_password(self, user: str, password: str | None = None) -> Login:
        """Give a login another password; sessions that are open stay open."""
        login = Login(user, password or secrets.token_urlsafe(12))
        alter = "ALTER ROLE {user} PASSWORD {password}"
        self.server.execute(self._named(alter, user=user, password=login.password))
        return login

    def terminate(self, user: str) -> int:
        """End every session of a login and return how many there were."""
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        return len(self.server.execute(query, (user,)))

    def execute(self, query: str | sql.Composable, params: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement in this database as superuser and return its rows."""
        return self.server.execute(query, params, dbname=self.name)

    def connection_params(self, login: Login | None = None) -> dict[str, Any]:
        """Return libpq keywords for ``login``, or for the owner."""
        login = login or self.owner
        return self.server.connection_params(self.name, login.user, login.password)

    def credentials(self, login: Login, lease: Lease | None = None) -> Credentials:
        """Return ``login`` as an adapter fetches it, with all that it takes to connect here."""
        params = self.connection_params(login)
        user, password = params.pop("user"), params.pop("password")
        return Credentials(user=user, password=password, parameters=params, lease=lease)

    def settings(self, login: Login | None = None, **extra: Any) -> dict[str, Any]:
        """Return Django's ``NAME HOST PORT``, and ``USER PASSWORD`` if a login is given."""
        found: dict[str, Any] = {
            "NAME": self.name,
            "HOST": self.server.host,
            "PORT": self.server.port,
        }
        if login is not None:
            found |= {"USER": login.user, "PASSWORD": login.password}
        return found | extra

    def __enter__(self) -> FreshDatabase:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def _named(self, template: str, *, user: str = "", password: str = "") -> sql.Composed:
        return sql.SQL(template).format(
            owner=sql.Identifier(self.owner.user),
            runtime=sql.Identifier(self.runtime),
            database=sql.Identifier(self.name),
            user=sql.Identifier(user),
            password=sql.Literal(password),
        )


def _quoted(role: str) -> str:
    """Quote a name that ``::regrole::text`` may already have quoted."""
    return role if role.startswith('"') else f'"{role}"'
