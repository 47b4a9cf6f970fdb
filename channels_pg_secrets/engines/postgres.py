"""The PostgreSQL engine: every connection of the layer is opened here."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import psycopg
from psycopg import sql

from channels_pg_secrets.config import DATABASE_KEYS, LAYER_OPTIONS, ORM_KEYS, check_layer_options
from channels_pg_secrets.engines import serialization
from channels_pg_secrets.engines.base import Engine
from channels_pg_secrets.engines.connection import OpenedConnection, cut
from channels_pg_secrets.engines.own_loop import on_own_loop
from channels_pg_secrets.engines.resolution import DjangoBackend, Resolved, resolved
from channels_pg_secrets.guarded import GuardedDict
from channels_pg_secrets.layer.cipher import cipher_of
from channels_pg_secrets.timeouts import timeout
from pg_secrets.connect import LoginRejected, RejectionGate, open_async
from pg_secrets.registry import credential_source
from pg_secrets.role_end import role_end_async

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

    from pg_secrets.source import CredentialSource

__all__ = ["OpenedConnection", "PostgresEngine"]

#: psycopg's own default: statements are prepared when used this often.
_PREPARE_THRESHOLD = 5
#: How many logins one opening tries: a backend may make up a new password each time it is asked.
_LOGINS = 3

#: Seconds after which the server gives up a listening session whose process reads no more: until
#: then that holds up the server's queue of notifications.
LISTENER_TIMEOUT = 30.0

T = TypeVar("T")


class PostgresEngine(Engine):
    """Builds the PostgreSQL channel layer and opens its connections.

    Override :meth:`connection_params`, :meth:`configure`, :meth:`connect`, :meth:`serialize` and
    :meth:`deserialize` as needed; everything else follows. One engine may be used from any thread
    and any event loop, and from a forked child; it keeps no connection itself.

    Raises:
        LayerMisconfigured: a setting is wrong; nothing has been sent yet.
        AdapterMisconfigured, AdapterNotInstalled: ``CREDENTIALS`` of the ``USING`` alias are wrong.
    """

    settings: ClassVar[frozenset[str]] = DATABASE_KEYS | ORM_KEYS | {"USING", "LISTEN"}
    #: The Django backend asked for parameters where ``ENGINE`` and ``USING`` name none.
    backend: ClassVar[str] = "django.db.backends.postgresql"
    #: Seconds for finding out what to connect with, and for each attempt to connect.
    open_timeout: ClassVar[float] = 30.0
    #: Seconds within which one opening tries again with credentials that came back different.
    rejection_budget: ClassVar[float] = 10.0

    def __init__(
        self, config: Mapping[str, Any], credentials: CredentialSource | None = None
    ) -> None:
        self.django_backend = DjangoBackend(config, self.backend)
        super().__init__(config, credentials)
        check_layer_options(config)
        # Says that its package is missing while settings are checked, not with the first send.
        cipher_of(config.get("symmetric_encryption_keys"))
        if self.source is None and self.django_backend.credentials_config is not None:
            self.source = credential_source(self.django_backend.credentials_config)
        if self.source is None and type(self).connection_params is PostgresEngine.connection_params:
            self.django_backend.require_name()
        # Shared with everybody else who logs in with the same credentials, where there is a source.
        self._gate = self.source.gate if self.source is not None else RejectionGate()
        #: Fingerprint of the login that was refused last, and what the server said.
        self._latest_refusal = ("", "")
        self._process = os.getpid()

    # What to override ---------------------------------------------------------------------

    def connection_params(self) -> dict[str, Any]:
        """Return libpq keywords for a new connection; asked afresh for each one.

        Called in a worker thread, so it may block, for at most :attr:`open_timeout` seconds, and
        two calls may overlap. What ``CREDENTIALS`` supply is laid over it afterwards. Raise any
        exception to let the layer try again later.
        """
        return self.django_backend.params(named_later=self.source is not None)

    async def configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Set up a new connection, which is in autocommit; a plain function will do as well.

        The default sets the role of ``OPTIONS["assume_role"]`` and the time zone of ``TIME_ZONE``,
        if given: behind PgBouncer in transaction mode both would leak to other clients.
        """
        settings = self.django_backend.settings.current()
        if role := settings["OPTIONS"].get("assume_role"):
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        if zone := settings["TIME_ZONE"]:
            await connection.execute("SELECT set_config('TimeZone', %s, false)", [zone])

    async def connect(self, **params: Any) -> psycopg.AsyncConnection[Any]:
        """Make one attempt to connect, in autocommit.

        The default does so in a worker thread: logging in keeps a loop busy for milliseconds.

        Raises:
            LoginRejected: the server refused user or password.
            psycopg.OperationalError: any other failure.
        """
        hidden = GuardedDict(params, autocommit=True)
        # What a traceback shows of this frame must not hold the password.
        del params
        return await on_own_loop(lambda: open_async(hidden), _finish)

    def serialize(self, message: dict[str, Any]) -> bytes:
        """Return a message as bytes, at any time and in any thread; must not block.

        Raises:
            TypeError, ValueError: the message holds what a message may not hold.
        """
        return serialization.serialize(message)

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Return the message that :meth:`serialize` made ``data`` of; must not block.

        Raises:
            ValueError: ``data`` is no message.
        """
        return serialization.deserialize(data)

    # What the layer calls -----------------------------------------------------------------

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        """Build the layer; ``options`` go over those in the settings.

        Raises:
            WrongValue: an option is of the wrong kind.
        """
        check_layer_options(options)
        from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer

        given = {key: value for key, value in self.config.items() if key in LAYER_OPTIONS}
        # The rest of CONFIG in lower case is this engine's or its backend's own.
        for key in options.keys() - (self.config.keys() - LAYER_OPTIONS):
            given[key] = options[key]
        return PostgresChannelLayer(self, **given)

    @property
    def prepare_threshold(self) -> int | None:
        """``OPTIONS["prepare_threshold"]``; ``None`` there means never to prepare statements."""
        threshold = self.django_backend.settings.option("prepare_threshold", _PREPARE_THRESHOLD)
        return None if threshold is None else int(threshold)

    def known_settings(self) -> frozenset[str]:
        """Return the declared keys, those of the Django backend included."""
        return super().known_settings() | self.django_backend.declared_settings

    def is_strict(self) -> bool:
        """Say whether every other key is refused: a third party's backend may read its own."""
        return super().is_strict() and self.django_backend.is_strict

    async def open_connection(self, *, listener: bool = False) -> OpenedConnection:
        """Open a connection with the parameters and credentials of this moment.

        Tries again by itself only with a login that differs from those refused, and not often. The
        caller closes what it gets with :meth:`OpenedConnection.close`, also after a rotation.

        Raises:
            LoginRejected: the server refused the login; ``retry_after`` says how many seconds
                the same password is to be left alone.
            psycopg.OperationalError: the server cannot be reached, or not in time.
            CredentialsError: the store has no usable credentials.
            LayerMisconfigured: the settings cannot work.
        """
        self._after_fork()
        deadline = time.monotonic() + self.rejection_budget
        refused: dict[str, LoginRejected] = {}
        while True:
            attempt = await self._resolve(listener)
            if attempt.fingerprint in refused:
                error = refused[attempt.fingerprint]
                error.retry_after = self._gate.remaining(attempt.fingerprint)
                raise error
            wait = self._gate.delay(attempt.fingerprint)
            if wait > 0:
                raise LoginRejected(self._why_refused(attempt.fingerprint), retry_after=wait)
            try:
                return await self._open(attempt, listener)
            except LoginRejected as error:
                error.retry_after = self._refused(attempt, error)
                self._latest_refusal = (attempt.fingerprint, str(error))
                refused[attempt.fingerprint] = error
                if len(refused) == _LOGINS or time.monotonic() >= deadline:
                    raise

    # How --------------------------------------------------------------------------------

    def _why_refused(self, fingerprint: str) -> str:
        """What the server said of this login, for as long as it is not asked again."""
        refused, text = self._latest_refusal
        return text if refused == fingerprint else "this login was refused a moment ago"

    async def _in_time(self, work: Awaitable[T], otherwise: str) -> T:
        try:
            async with timeout(self.open_timeout):
                return await work
        except asyncio.TimeoutError:
            failure = psycopg.OperationalError(f"{otherwise} within {self.open_timeout:g} seconds")
        raise failure

    async def _resolve(self, listener: bool) -> Resolved:
        work = asyncio.to_thread(self._resolve_now, listener)
        return await self._in_time(work, "no connection parameters")

    def _resolve_now(self, listener: bool) -> Resolved:
        # Credentials first: what is resolved after a rotation must not carry the stamp of before.
        credentials = self.source.get() if self.source is not None else None
        over = self.django_backend.settings.listen if listener else GuardedDict()
        return resolved(
            self.connection_params(),
            credentials,
            over,
            place_of=self._place_of,
            store=f"CREDENTIALS ({self.source.name})" if self.source is not None else "",
        )

    def _place_of(self, keyword: str, value: Any) -> str:
        """Where the settings do not have it, whoever was asked with them made it up."""
        own = type(self).connection_params is not PostgresEngine.connection_params
        asked = f"{self.name}.connection_params()" if own else self.django_backend.name
        return self.django_backend.settings.place_of(keyword, value) or asked

    async def _open(self, attempt: Resolved, listener: bool) -> OpenedConnection:
        hold = None
        if self.source is not None and attempt.credentials is not None:
            # Before the login, so that the lease cannot be revoked under it.
            hold = self.source.hold(attempt.credentials)
        connection: psycopg.AsyncConnection[Any] | None = None
        try:
            connection = await self._connected(attempt)
            await self._in_time(self._set_up(connection, attempt, listener), "no usable session")
        except BaseException:
            # Whatever it was, a cancellation included: nobody else knows this connection.
            if connection is not None:
                connection.pgconn.finish()
            if hold is not None:
                hold.release()
            raise
        return OpenedConnection(
            connection,
            attempt.credentials,
            attempt.fingerprint,
            time.monotonic(),
            hold,
            origins=attempt.origins,
        )

    async def _connected(self, attempt: Resolved) -> psycopg.AsyncConnection[Any]:
        try:
            return await self._in_time(self.connect(**attempt.params), "no connection")
        except psycopg.Error as error:
            if error.pgconn is None:
                raise
            # Somebody's own connect(): the connection inside the error knows the password.
            failure = type(error)(str(error))
        raise failure

    def _refused(self, attempt: Resolved, error: LoginRejected) -> float:
        """Pass on that a login was refused; return the seconds to leave it alone."""
        if self.source is not None and attempt.credentials is not None:
            self.source.rejected(attempt.credentials, error.sqlstate)
            return self._gate.remaining(attempt.fingerprint)
        return self._gate.rejected(attempt.fingerprint)

    async def _accepted(self, attempt: Resolved, connection: psycopg.AsyncConnection[Any]) -> None:
        """Pass on that a login was taken, and when the database will stop taking it."""
        if self.source is None or attempt.credentials is None:
            self._gate.accepted(attempt.fingerprint)
            return
        self.source.valid_until(attempt.credentials, await role_end_async(connection))

    def _after_fork(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            if self.source is None:
                self._gate.after_fork()

    async def _set_up(
        self, connection: psycopg.AsyncConnection[Any], attempt: Resolved, listener: bool
    ) -> None:
        # An interrupted driver asks the server to cancel, and waits for it: for seconds, or for
        # ever, where that has frozen. So the socket is ended first, which ends all waiting.
        seconds = 0.9 * self.open_timeout
        ending = asyncio.get_running_loop().call_later(seconds, cut, connection)
        try:
            await self._configured(connection, attempt, listener)
        except psycopg.OperationalError as error:
            if ending.when() > asyncio.get_running_loop().time():
                raise
            text = f"no usable session within {seconds:g} seconds"
            raise psycopg.OperationalError(text) from error.with_traceback(None)
        finally:
            ending.cancel()

    async def _configured(
        self, connection: psycopg.AsyncConnection[Any], attempt: Resolved, listener: bool
    ) -> None:
        connection.prepare_threshold = self.prepare_threshold
        if not connection.autocommit:
            # A connect() of somebody else's may not have; and a listener left inside a transaction
            # keeps the server's queue of notifications from being cleaned.
            await connection.set_autocommit(True)
        await self._accepted(attempt, connection)
        configured = self.configure(connection)
        if inspect.isawaitable(configured):
            await configured
        if listener and connection.info.server_version >= 140000:
            # Not as a start-up parameter: PgBouncer refuses those.
            await connection.execute("SET idle_session_timeout = 0")
        if listener:
            # The server's own: libpq's parameter of that name is about what the client sends.
            milliseconds = int(LISTENER_TIMEOUT * 1000)
            await connection.execute(f"SET tcp_user_timeout = {milliseconds}".encode())


def _finish(connection: psycopg.AsyncConnection[Any]) -> None:
    connection.pgconn.finish()
