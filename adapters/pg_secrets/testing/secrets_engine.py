"""A Vault database secrets engine set up for one fresh database."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pg_secrets.testing.database import FreshDatabase, Login
from pg_secrets.testing.openbao import OpenBaoServer

if TYPE_CHECKING:
    import hvac

# Vault's own default drops the role and leaves its sessions alive. Ending them is harder on the
# client, and what a careful operator wants.
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';"
_DROP = 'DROP ROLE IF EXISTS "{{name}}";'
_CREATE = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"


class DatabaseSecretsEngine:
    """Vault's ``database`` engine at a mount of its own, writing to one database.

    :meth:`dynamic_role` makes logins that live as long as their lease, :meth:`static_role` keeps
    one login and changes its password. Not thread-safe.
    """

    connection = "postgres"

    def __init__(
        self, openbao: OpenBaoServer, database: FreshDatabase, *, mount: str | None = None
    ) -> None:
        self.openbao = openbao
        self.database = database
        self.mount = mount or f"database-{secrets.token_hex(4)}"
        self.client: hvac.Client = openbao.client()

    def enable(self) -> None:
        """Mount the engine and tell it how to reach the database."""
        server = self.database.server
        self.client.sys.enable_secrets_engine("database", path=self.mount)
        self._write(
            f"config/{self.connection}",
            plugin_name="postgresql-database-plugin",
            allowed_roles="*",
            connection_url=(
                f"postgresql://{{{{username}}}}:{{{{password}}}}@{server.host}:{server.port}"
                f"/{self.database.name}?sslmode=disable"
            ),
            username=server.superuser,
            password=server.password,
            password_authentication="scram-sha-256",  # noqa: S106 - a method, no password
        )

    def disable(self) -> None:
        """Revoke every lease and take the mount away."""
        self.client.sys.revoke_prefix(prefix=self.mount)
        self.client.sys.disable_secrets_engine(path=self.mount)
        self.client.adapter.close()

    def dynamic_role(
        self,
        name: str,
        *,
        default_ttl: str = "1h",
        max_ttl: str = "24h",
        member_of: str | None = None,
        terminate: bool = True,
    ) -> str:
        """Define a role whose logins are members of ``member_of`` (the runtime role), return it.

        ``terminate`` ends a login's sessions when its lease ends, instead of only dropping it.
        """
        group = member_of or self.database.runtime
        self._write(
            f"roles/{name}",
            db_name=self.connection,
            creation_statements=[f'{_CREATE} IN ROLE "{group}";'],
            renew_statements=["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}';"],
            revocation_statements=[_TERMINATE, _DROP] if terminate else [_DROP],
            default_ttl=default_ttl,
            max_ttl=max_ttl,
        )
        return name

    def static_role(self, name: str, login: Login, *, rotation_period: str = "24h") -> str:
        """Hand a login to Vault, which changes its password now and every period, return it."""
        self._write(
            f"static-roles/{name}",
            db_name=self.connection,
            username=login.user,
            rotation_period=rotation_period,
            rotation_statements=["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}';"],
        )
        return name

    def rotate_static_role(self, name: str) -> None:
        """Change a static role's password now."""
        self._write(f"rotate-role/{name}")

    def login(self, role: str) -> Login:
        """Ask Vault for a dynamic role's login, as any client would."""
        data = self._read(f"creds/{role}")
        return Login(data["username"], data["password"])

    def static_login(self, role: str) -> Login:
        """Ask Vault for a static role's present password."""
        data = self._read(f"static-creds/{role}")
        return Login(data["username"], data["password"])

    def token(self, *paths: str, ttl: str = "1h", period: str | None = None) -> str:
        """Return a token that may read ``paths`` below the mount (all, if none is given).

        It may also renew and revoke leases, and nothing else.
        """
        policy = f"{self.mount}-{secrets.token_hex(4)}"
        rule = 'path "%s/%s" { capabilities = ["read"] }'
        rules = "\n".join(rule % (self.mount, path) for path in paths or "*")
        rules += '\npath "sys/leases/revoke" { capabilities = ["update"] }'
        self.client.sys.create_or_update_policy(policy, rules)
        answer = self.client.auth.token.create(
            policies=[policy], ttl=ttl, period=period, no_parent=True
        )
        return str(answer["auth"]["client_token"])

    def revoke_leases(self, role: str) -> None:
        """End every lease of a dynamic role now."""
        self.client.sys.revoke_prefix(prefix=f"{self.mount}/creds/{role}")

    def __enter__(self) -> DatabaseSecretsEngine:
        self.enable()
        return self

    def __exit__(self, *_: object) -> None:
        self.disable()

    def _write(self, path: str, **data: Any) -> None:
        self.client.write_data(f"{self.mount}/{path}", data=data)

    def _read(self, path: str) -> dict[str, Any]:
        answer = self.client.read(f"{self.mount}/{path}")
        return dict(answer["data"])
