"""The kinds of secret a Vault has for a database: dynamic roles, static roles, key and value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from pg_secrets.credentials import Credentials, Lease
from pg_secrets.errors import CredentialsInvalid, CredentialsNotFound
from pg_secrets.fields import FieldMap, login
from pg_secrets.options import Options
from pg_secrets.supplied_secret import SuppliedSecret
from pg_secrets.vault.auth_method import number
from pg_secrets.vault.errors import Answer
from pg_secrets.vault.session import VaultSession
from pg_secrets.vault_wrapping import Wrapping

#: Vault looks for passwords to change every five seconds; asking the moment one is due is too soon.
_ROTATION_DELAY = 1.0


class VaultSecret(ABC):
    """One secret at one path. Called as :class:`CredentialAdapter` says: never twice at a time."""

    path: str

    @property
    def place(self) -> str:
        """What an error calls it."""
        return f"Vault, {self.path}"

    def policy(self) -> str:
        """Return what a token's policy has to hold for this."""
        return f'path "{self.path}" {{ capabilities = ["read"] }}'

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    @abstractmethod
    def fetch(self, session: VaultSession) -> Credentials:
        """Ask for the secret."""

    def renew(self, session: VaultSession, credentials: Credentials) -> Credentials | None:
        """Extend the lease, where there is one."""
        return None


class DynamicRole(VaultSecret):
    """``MOUNT/creds/ROLE``: a login made for us, which lives as long as its lease."""

    def __init__(self, role: str, mount: str = "database") -> None:
        self._role = role
        self._mount = mount
        self.path = f"{mount}/creds/{role}"
        #: The lease as it was granted at first: a renewal asks for as much.
        self._granted: Lease | None = None

    def policy(self) -> str:
        """Return the same, with what keeps the lease and gives it back."""
        leases = 'capabilities = ["update"]'
        return (
            f'{super().policy()} path "sys/leases/renew" {{ {leases} }}'
            f' path "sys/leases/revoke" {{ {leases} }}'
        )

    def fetch(self, session: VaultSession) -> Credentials:
        """Have a new login made; it expires with its lease, or with our token if that is sooner."""
        asked_at = session.clock()
        answer = session.request(
            lambda vault: vault.secrets.database.generate_credentials(
                name=self._role, mount_point=self._mount
            ),
            new_lease=True,
        )
        credentials = _login(answer, self.place)
        lease = self._lease(answer)
        self._granted = lease
        return self._leased(credentials, lease, session, asked_at)

    def renew(self, session: VaultSession, credentials: Credentials) -> Credentials | None:
        """Ask for as long again as was granted at first.

        Returns ``None`` when Vault refuses. When ``max_ttl`` makes the renewal shorter than asked,
        what comes back is no longer renewable: the source has until then to fetch another login.
        """
        lease = credentials.lease
        if lease is None or not lease.renewable:
            return None
        first = self._granted
        wanted = first.duration if first and first.id == lease.id else lease.duration
        asked_at = session.clock()
        answer = session.request(
            lambda vault: vault.sys.renew_lease(lease_id=lease.id, increment=int(wanted)),
            lasting=wanted,
        )
        if answer.refuses(400, 403, 404):
            return None
        if not answer.ok:
            raise answer.error(f"{self.place}, renewing its lease")
        granted = self._lease(answer)
        truncated = granted.duration < int(wanted)
        renewed = Lease(lease.id, granted.duration, granted.renewable and not truncated)
        return self._leased(credentials, renewed, session, asked_at)

    def _leased(
        self, credentials: Credentials, lease: Lease, session: VaultSession, asked_at: float
    ) -> Credentials:
        lasts = session.bind(lease.id, lease.duration, asked_at)
        return credentials.replace(
            lease=Lease(lease.id, lasts, lease.renewable), expires_at=asked_at + lasts
        )

    def _lease(self, answer: Answer) -> Lease:
        lease_id, duration = answer.body.get("lease_id"), number(answer.body.get("lease_duration"))
        if not isinstance(lease_id, str) or not lease_id or not duration:
            raise CredentialsInvalid(f"{self.place}: the answer holds no lease")
        return Lease(lease_id, duration, answer.body.get("renewable") is True)


class StaticRole(VaultSecret):
    """``MOUNT/static-creds/ROLE``: one user, whose password Vault changes now and then.

    The password does not expire: it is good until Vault changes it. So there is a time to ask
    again, shortly after the change is due, and no time at which the present one must be dropped.
    While a change is overdue, that time stays what it was: the source sees how late the Vault is.
    """

    def __init__(self, role: str, mount: str = "database") -> None:
        self._role = role
        self._mount = mount
        self.path = f"{mount}/static-creds/{role}"
        self._due: tuple[str | None, float] | None = None

    def fetch(self, session: VaultSession) -> Credentials:
        """Read user and present password; the version is the time of the last change."""
        asked_at = session.clock()
        answer = session.request(
            lambda vault: vault.secrets.database.get_static_credentials(
                name=self._role, mount_point=self._mount
            )
        )
        credentials = _login(answer, self.place)
        data = answer.section("data", self.place)
        last = data.get("last_vault_rotation")
        version = last if isinstance(last, str) else None
        due = self._due_at(number(data.get("ttl")), version, asked_at)
        return credentials.replace(version=version, refresh_at=_sooner(due, session.token_due_at))

    def _due_at(self, ttl: float | None, version: str | None, now: float) -> float | None:
        if ttl is None:
            return None
        if ttl > 0 or self._due is None or self._due[0] != version:
            self._due = (version, now + ttl + _ROTATION_DELAY)
        return self._due[1]


class KeyValue(VaultSecret):
    """A secret that somebody wrote, in the KV engine's first or second version."""

    def __init__(
        self,
        path: str,
        mount: str = "secret",
        *,
        kv_version: int = 2,
        version: int | None = None,
        fields: FieldMap,
    ) -> None:
        self._path = path
        self._mount = mount
        self._kv_version = kv_version
        self._version = version
        self._fields = fields
        self.path = f"{mount}/data/{path}" if kv_version == 2 else f"{mount}/{path}"

    def fetch(self, session: VaultSession) -> Credentials:
        """Read the secret, its latest version unless one is pinned."""
        answer = session.request(self._read)
        outer = self._section(answer)
        if self._kv_version == 1:
            credentials = self._fields.pick(outer, self.place)
        else:
            document, metadata = outer.get("data"), outer.get("metadata")
            if not isinstance(document, dict) or not isinstance(metadata, dict):
                raise CredentialsInvalid(
                    f"{self.place}: the answer is not of KV version 2; check KV_VERSION"
                )
            credentials = self._fields.pick(document, self.place)
            credentials = credentials.replace(version=_text(metadata.get("version")))
        return credentials.replace(refresh_at=session.token_due_at)

    def _read(self, vault: Any) -> Any:
        if self._kv_version == 1:
            return vault.secrets.kv.v1.read_secret(path=self._path, mount_point=self._mount)
        return vault.secrets.kv.v2.read_secret_version(
            path=self._path,
            version=self._version,
            mount_point=self._mount,
            raise_on_deleted_version=False,
        )

    def _section(self, answer: Answer) -> dict[str, Any]:
        gone = answer.body.get("data")
        metadata = gone.get("metadata") if isinstance(gone, dict) else None
        if answer.status == 404 and isinstance(metadata, dict):
            kind = "destroyed" if metadata.get("destroyed") is True else "deleted"
            which = _text(metadata.get("version")) or "?"
            raise CredentialsNotFound(f"{self.place}: version {which} was {kind} (404)")
        return answer.section("data", self.place)


class WrappedSecret(VaultSecret):
    """A login that somebody put into a wrapping token: a KV secret, or whatever he wrapped.

    Unwrapped once, kept in memory, and unwrapped again where another wrapping token stands.
    """

    path = "sys/wrapping/unwrap"

    def __init__(self, given: SuppliedSecret, *, fields: FieldMap) -> None:
        self._given = given
        self._wrapping = Wrapping("login", self._pick)
        self._fields = fields

    def fetch(self, session: VaultSession) -> Credentials:
        """Take the login out, or return what was in it."""
        return session.unwrapped(self._wrapping, self._given.read())

    def _pick(self, answer: Answer, purpose: str) -> Credentials:
        found = answer.section("data", purpose)
        if answer.body.get("lease_id"):
            raise CredentialsInvalid(
                f"{purpose}: it has a lease, which hangs on the token of whoever wrapped it;"
                " let this process ask for a login of its own (ROLE)"
            )
        document = found.get("data")
        return self._fields.pick(document if isinstance(document, dict) else found, self.place)


def secret_from_options(options: Options) -> VaultSecret:
    """Return the one secret that ``ROLE``, ``STATIC_ROLE``, ``KV`` or ``WRAPPED`` names.

    Raises:
        AdapterMisconfigured: none or several are given, or something that does not go with it.
    """
    wrapped = SuppliedSecret.optional(options, "WRAPPED")
    kinds = [key for key in ("ROLE", "STATIC_ROLE", "KV") if key in options]
    kinds += [] if wrapped is None else ["WRAPPED"]
    kv_only = [key for key in ("KV_VERSION", "VERSION", "FIELDS") if key in options]
    if kinds == ["WRAPPED"]:
        kv_only = [key for key in (*kv_only, "MOUNT") if key != "FIELDS" and key in options]
    if len(kinds) > 1:
        raise options.error(kinds[0], f"excludes {', '.join(kinds[1:])}: give one of them")
    if kv_only and kinds and kinds != ["KV"]:
        raise options.error(kv_only[0], "is only of use together with KV")
    if wrapped is not None:
        return WrappedSecret(wrapped, fields=FieldMap.from_options(options))
    mount = options.text("MOUNT", "secret" if kinds == ["KV"] else "database").strip("/")
    if kinds == ["ROLE"]:
        return DynamicRole(options.text("ROLE"), mount)
    if kinds == ["STATIC_ROLE"]:
        return StaticRole(options.text("STATIC_ROLE"), mount)
    return _key_value(options, mount)


def _key_value(options: Options, mount: str) -> KeyValue:
    kv_version = options.integer("KV_VERSION", 2, minimum=1, maximum=2)
    version = options.integer("VERSION", None, minimum=1)
    fields = FieldMap.from_options(options)
    path = options.text("KV", None)
    if path is None:
        options.finish()
        raise options.error("ROLE", "is required and missing, unless STATIC_ROLE or KV is given")
    if version is not None and kv_version == 1:
        raise options.error("VERSION", "KV version 1 keeps no versions to pin")
    return KeyValue(path.strip("/"), mount, kv_version=kv_version, version=version, fields=fields)


def _login(answer: Answer, place: str) -> Credentials:
    data = answer.section("data", place)
    return login({"user": data.get("username"), "password": data.get("password")}, place)


def _sooner(first: float | None, second: float | None) -> float | None:
    return min((moment for moment in (first, second) if moment is not None), default=None)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
