"""Credentials from HashiCorp Vault or OpenBao, through hvac."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.options import Options
from pg_secrets.redaction import stripping
from pg_secrets.vault.auth import auth_method
from pg_secrets.vault.client import VaultAddress
from pg_secrets.vault.secrets import VaultSecret, secret_from_options
from pg_secrets.vault.session import VaultSession


class VaultAdapter(CredentialAdapter):
    """Reads one secret from a Vault; needs the extra ``vault``.

    Which secret, exactly one of:

    ``ROLE`` (string)
        A role of the database engine: Vault makes a login for us, with a lease.
    ``STATIC_ROLE`` (string)
        A static role of the database engine: one user whose password Vault changes.
    ``KV`` (string)
        The path of a secret in a KV engine, without the mount.
    ``WRAPPED``, ``WRAPPED_ENV`` (a variable's name) or ``WRAPPED_FILE`` (a path)
        A wrapping token with a secret in it (a KV one, or fields that somebody wrapped), taken out
        once and kept in memory; once more when another one stands there. Needs no ``AUTH``.

    and about it:

    ``MOUNT`` (string, default ``"database"``, for ``KV`` ``"secret"``)
        Where the engine is mounted.
    ``KV_VERSION`` (1 or 2, default 2)
        The version of the KV engine.
    ``VERSION`` (integer, default: the latest)
        Pins one version of a KV 2 secret.
    ``FIELDS`` (mapping of libpq keywords to the secret's keys; only for ``KV`` and ``WRAPPED``)
        What to take. By default ``username`` or ``user``, ``password``, and where they are there
        ``host``, ``port``, ``dbname`` or ``database``.

    Who asks:

    ``AUTH`` (mapping, default ``{"METHOD": "token"}``)
        ``{"METHOD": "token"}`` with one of ``TOKEN``, ``TOKEN_ENV``, ``TOKEN_FILE`` (read again
        when the file changes, as Vault Agent's sink does); by default ``VAULT_TOKEN``, then
        ``~/.vault-token``. With ``WRAPPED`` (bool) it is a wrapping token that the token is in.
        ``{"METHOD": "approle"}`` with ``ROLE_ID`` and ``SECRET_ID``; with ``WRAPPED`` (bool) the
        latter is a wrapping token.
        ``{"METHOD": "kubernetes"}`` with ``ROLE``, and ``TOKEN_FILE`` where the service account's
        token is not at Kubernetes' usual place.
        ``{"METHOD": "jwt"}`` with ``JWT`` and ``ROLE``.
        ``{"METHOD": "userpass"}`` and ``"ldap"`` with ``USERNAME`` and ``PASSWORD``.
        ``{"METHOD": "cert"}`` with ``CERT_FILE``, ``KEY_FILE`` and ``NAME`` of the role.
        ``{"METHOD": "aws"}`` with ``ROLE``, and where the mount asks for it ``SERVER_ID``; keys as
        for the adapter ``aws``, with its ``REGION``, ``ENDPOINT`` (both STS'), ``PROFILE`` and
        ``ROLE_ARN``. Needs the extra ``aws``.
        ``{"METHOD": "gcp"}`` with ``ROLE`` and its ``TYPE``: ``"gce"`` (the machine's own token) or
        ``"iam"`` (a service account's, of ``CREDENTIALS_FILE`` or Application Default
        Credentials, or of ``SERVICE_ACCOUNT``, for which IAM signs; ``ENDPOINT`` is IAM's).
        Needs the extra ``gcp``.
        All of them take ``MOUNT`` (default: the method's name). ``TOKEN``, ``ROLE_ID``,
        ``SECRET_ID``, ``JWT`` and ``PASSWORD`` may also be given as ``…_ENV`` (a variable's name)
        or ``…_FILE`` (a path), and are read afresh for every login.

    Where:

    ``ADDRESS`` (URL, default ``VAULT_ADDR``)
        The Vault's address.
    ``NAMESPACE`` (string, default ``VAULT_NAMESPACE``)
        The namespace to work in.
    ``CA_BUNDLE`` (path, default ``VAULT_CACERT`` or ``VAULT_CAPATH``)
        The certificates to trust.
    ``VERIFY`` (bool, default True)
        Whether to check the Vault's certificate at all; urllib3 warns where it is not.
    ``CONNECT_TIMEOUT`` (seconds, default 3), ``TIMEOUT`` (seconds, default 5)
        How long connecting, and each wait for an answer, may take.

    Leases end with the token they were granted to, and are counted from before the request. Tokens
    are renewed at 70 % of their life; those from a login are replaced when that fails or after a
    403, and revoked by :meth:`close`; batch tokens, which can be neither renewed nor revoked, are
    replaced at 70 %. Safe to use from several threads, one request at a time, and
    after a fork, where it logs in anew.
    """

    name: ClassVar[str] = "vault"

    def __init__(self, session: VaultSession, secret: VaultSecret) -> None:
        self._session = session
        self._secret = secret

    def __repr__(self) -> str:
        return f"<VaultAdapter {self._secret!r} {self._session!r}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, clock: Callable[[], float] = time.time
    ) -> VaultAdapter:
        """Build from settings; nothing is sent.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: hvac is not installed.
        """
        options = Options(config, adapter="vault")
        address = VaultAddress.from_options(options)
        auth = auth_method(options)
        secret = secret_from_options(options)
        options.finish()
        return cls(VaultSession(address, auth, clock=clock), secret)

    @stripping
    def fetch(self) -> Credentials:
        """Ask Vault for the secret.

        Raises:
            CredentialsUnavailable: Vault is away, sealed, overloaded or a standby, or something
                before it answered; try again.
            CredentialsDenied: Vault refuses who we are or what we ask.
            CredentialsNotFound: nothing is there, or that version was deleted.
            CredentialsInvalid: the answer is not what a Vault answers, or lacks a field.
        """
        return self._secret.fetch(self._session)

    @stripping
    def renew(self, credentials: Credentials) -> Credentials | None:
        """Extend the lease by as much as was granted at first.

        Returns the same login with its new expiry; with ``lease.renewable`` false where Vault
        granted less than asked, since max_ttl is near; ``None`` where Vault refused.

        Raises:
            CredentialsUnavailable: Vault could not be asked; the lease runs on meanwhile.
        """
        return self._secret.renew(self._session, credentials)

    @stripping
    def revoke(self, credentials: Credentials) -> None:
        """Give the lease back; one that is gone already is no error.

        Raises:
            CredentialsDenied: the policy lacks ``update`` on ``sys/leases/revoke``.
            CredentialsUnavailable: Vault could not be asked; the lease ends by itself.
        """
        lease = credentials.lease
        if lease is None:
            return
        # Logging in again would not help: a new token is no more allowed to than the present one.
        answer = self._session.request(
            lambda vault: vault.sys.revoke_lease(lease_id=lease.id), again=False
        )
        if not answer.ok and not answer.refuses(400, 404):
            raise answer.error("Vault, sys/leases/revoke (a policy has to allow 'update' there)")
        self._session.release(lease.id)

    def policy(self) -> str:
        """Return the paths that the token's policy has to allow."""
        return self._secret.policy()

    def lease_ground(self, credentials: Credentials) -> Mapping[str, Any] | None:
        """Return the token that the lease hangs on: whoever renews it may have to renew both."""
        lease = credentials.lease
        return self._session.ground(lease.id) if lease is not None else None

    def take_ground(self, credentials: Credentials, ground: Mapping[str, Any]) -> None:
        """Go on with the token that another process got the lease by."""
        if credentials.lease is not None and credentials.expires_at is not None:
            self._session.take_ground(credentials.lease.id, credentials.expires_at, ground)

    def leave(self) -> None:
        """Close the sockets and revoke nothing."""
        self._session.leave()

    def close(self) -> None:
        """Revoke the tokens that came from a login, with their leases, and close the sockets."""
        self._session.close()
