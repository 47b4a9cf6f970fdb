"""How a Django connection follows a credential source."""

from __future__ import annotations

import copy
import time
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_pg_secrets.db.postgresql.settings import refuse_pool, source_of
from channels_pg_secrets.guarded import GuardedDict
from channels_pg_secrets.precedence import with_credentials
from pg_secrets.connect import LoginRejected, open_sync
from pg_secrets.errors import CredentialsUnavailable
from pg_secrets.role_end import role_end

if TYPE_CHECKING:
    from pg_secrets.credentials import Credentials
    from pg_secrets.leases import Hold
    from pg_secrets.source import CredentialSource

    Base = BaseDatabaseWrapper
else:
    Base = object

#: Insufficient privilege, undefined object: what a session of a dropped role gets to hear.
_ROLE_GONE = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject)
#: Seconds between two looks at the source while waiting for other credentials.
_LOOK = 0.25


class Driver:
    """psycopg, except that :meth:`connect` tells a refused login from an outage."""

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)

    @staticmethod
    def connect(**params: Any) -> psycopg.Connection[Any]:
        """Make one attempt to connect; no password is in what it raises."""
        return open_sync(params)


class FollowsCredentials(Base):
    """Mixed into a Django ``DatabaseWrapper``, whose logins then follow ``CREDENTIALS``.

    Asks the source for each new connection, closes connections of an older generation between
    requests, and reports refused logins to the source. Like every Django connection it belongs to
    one thread; the source is shared by all.
    """

    Database: Any = Driver()
    #: Tells the layer's engine that the wrapper logs in with ``CREDENTIALS`` by itself.
    takes_credentials = True
    #: Seconds one new connection may spend on waiting for credentials other than those refused.
    login_budget: ClassVar[float] = 5.0

    _resolved: Credentials | None = None
    _connected: Credentials | None = None
    _hold: Hold | None = None

    @cached_property
    def credential_source(self) -> CredentialSource | None:
        """The source that ``CREDENTIALS`` name; ``None`` where they are ``None``."""
        return source_of(self.settings_dict, self.alias)

    def get_connection_params(self) -> dict[str, Any]:
        """Return what a connection opened now would use; may ask the store.

        Raises:
            DatabaseMisconfigured: the settings cannot work.
            psycopg.OperationalError: the store did not answer; later it may.
            CredentialsError: the store will not give anything.
        """
        if self.credential_source is None:
            return super().get_connection_params()
        refuse_pool(self.settings_dict, self.alias)
        try:
            self._resolved = self.credential_source.get()
        except CredentialsUnavailable as error:
            raise psycopg.OperationalError(str(error)) from error
        return with_credentials(self._own_params(self._resolved), self._resolved)

    def _own_params(self, credentials: Credentials) -> dict[str, Any]:
        name = credentials.parameters.get("dbname")
        if self.settings_dict["NAME"] != "" or not name:
            return super().get_connection_params()
        # Django insists on NAME; the twin has the one from the credentials.
        twin = copy.copy(self)
        twin.settings_dict = {**self.settings_dict, "NAME": name}
        return super(FollowsCredentials, twin).get_connection_params()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, within :attr:`login_budget` also with newer credentials than those given.

        Raises:
            LoginRejected: the server refused the login, and the store has no other.
            psycopg.OperationalError: the server cannot be reached.
        """
        source = self.credential_source
        if source is None:
            return super().get_new_connection(conn_params)
        params = GuardedDict(conn_params)
        conn_params.clear()
        deadline = time.monotonic() + self.login_budget
        while True:
            credentials = self._resolved
            assert credentials is not None  # noqa: S101 - get_connection_params() came before
            wait = source.gate.delay(credentials.fingerprint)
            refused = LoginRejected(
                "this login was refused a moment ago, and the store has no other", retry_after=wait
            )
            if wait <= 0:
                try:
                    return self._open(source, credentials, params)
                except LoginRejected as error:
                    refused = error
            params = self._another(source, credentials.fingerprint, refused, deadline)

    def _open(
        self, source: CredentialSource, credentials: Credentials, params: GuardedDict
    ) -> psycopg.Connection[Any]:
        # Before the login, so that the lease cannot be revoked under it.
        hold = source.hold(credentials)
        try:
            connection: psycopg.Connection[Any] = super().get_new_connection(params)
        except BaseException as error:
            hold.release()
            if isinstance(error, LoginRejected):
                source.rejected(credentials, error.sqlstate)
            raise
        # A thread that ends drops its connection without closing it.
        weakref.finalize(connection, hold.release).atexit = False
        self._hold, self._connected = hold, credentials
        try:
            source.valid_until(credentials, role_end(connection))
        except BaseException:
            connection.close()  # of no use, and known to nobody else
            raise
        return connection

    def _another(
        self, source: CredentialSource, fingerprint: str, refused: LoginRejected, deadline: float
    ) -> GuardedDict:
        """Wait for credentials other than the refused, or for when those may be tried again."""
        while True:
            params = GuardedDict(self.get_connection_params())
            assert self._resolved is not None  # noqa: S101 - just set
            wait = source.gate.remaining(fingerprint)
            if self._resolved.fingerprint != fingerprint or wait <= 0:
                return params
            if time.monotonic() + min(wait, _LOOK) > deadline:
                refused.retry_after = wait
                raise refused
            time.sleep(min(wait, _LOOK))

    def close_if_unusable_or_obsolete(self) -> None:
        """Between requests, also close a connection whose credentials have been replaced."""
        super().close_if_unusable_or_obsolete()
        if self.connection is None or self.in_atomic_block or self._connected is None:
            return
        source = self.credential_source
        if source is not None and source.generation > self._connected.generation:
            self.close()

    def is_usable(self) -> bool:
        """Say whether the connection works and its role still exists."""
        connection = self.connection
        if connection is None or self._connected is None:
            return bool(super().is_usable())
        try:
            # SELECT 1 goes on working for a role that was dropped.
            with connection.cursor() as cursor:
                cursor.execute("SELECT session_user")
        except _ROLE_GONE as error:
            if self.credential_source is not None:
                self.credential_source.rejected(self._connected, error.sqlstate)
            return False
        except psycopg.Error:
            return False
        return True

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            if self._hold is not None:
                self._hold.release()
            self._hold = self._connected = None
