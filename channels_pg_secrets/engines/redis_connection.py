"""redis-py connections that log in with a credential source and follow it."""

from __future__ import annotations

import asyncio
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from typing import Any, ClassVar, cast

from redis import exceptions
from redis.exceptions import AuthenticationError

from channels_pg_secrets.engines.redis_logins import Answering, Logins
from channels_pg_secrets.guarded import GuardedDict
from channels_pg_secrets.timeouts import timeout
from pg_secrets.credentials import Credentials
from pg_secrets.events import CredentialEvent
from pg_secrets.leases import Hold
from pg_secrets.redaction import scrubbed

#: Seconds between two looks at the source while waiting for other credentials.
_LOOK = 0.25
_ACCEPTED = (b"OK", "OK")
_LOST = (exceptions.ConnectionError, exceptions.TimeoutError)


class _Session:
    """What a connection is logged in with; the lease is held until :meth:`end`."""

    def __init__(self, owner: Following, credentials: Credentials) -> None:
        self.credentials = credentials
        source, loop = owner.logins.source, asyncio.get_running_loop()
        look_later, process = weakref.WeakMethod(owner.look_later), os.getpid()

        def hear(event: CredentialEvent) -> None:
            # In whatever thread; the loop may be closed by now, and a fork's child has none of it.
            if event.kind == "rotated" and os.getpid() == process:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_run, look_later)

        unsubscribe = source.subscribe(hear)
        # Runs also for a connection that is dropped instead of closed.
        self.end = weakref.finalize(owner, _end, source.hold(credentials), unsubscribe)

    def is_of(self, credentials: Credentials | None) -> bool:
        """Say whether this is the login with these credentials."""
        return credentials is not None and credentials.fingerprint == self.credentials.fingerprint


def _run(method: weakref.WeakMethod[Any]) -> None:
    bound = method()
    if bound is not None:
        bound()


def _end(hold: Hold, unsubscribe: Callable[[], None]) -> None:
    unsubscribe()
    hold.release()


class Following:
    """Mixed into redis-py's connection classes: the login follows a source.

    A connection that is open changes its login in place, with ``AUTH``: between two commands, or,
    where it is subscribed, between two messages. So nothing is missed. It keeps its old login if
    Redis refuses the new one. A new connection that is refused waits for other credentials; the
    same ones are tried no more often than the source's gate admits.

    One that lies idle in its pool changes when it is used next. After :attr:`idle_limit` it is
    closed if Redis takes the new login, so that it does not keep the old lease for longer.

    No exception that leaves a connection carries a frame with the password. Belongs to one event
    loop, as redis-py's own connections do.
    """

    #: Seconds without a command after which a connection counts as idle.
    idle_limit: ClassVar[float] = 10.0

    is_connected: bool
    _reader: asyncio.StreamReader | None

    def __init__(
        self, *, logins: Logins, socket_timeout: float | None = None, **keywords: Any
    ) -> None:
        self.logins = logins
        # redis-py's own would use wait_for, which swallows cancellations before Python 3.12: a
        # consumer that is told to end would go on for ever.
        self._socket_timeout = socket_timeout
        self._provider = Answering(logins)
        self._admitted: Credentials | None = None
        self._session: _Session | None = None
        #: What ``AUTH`` was sent with on an open connection, until the answer is there.
        self._asked: _Session | None = None
        self._subscribes = False
        self._connecting = asyncio.Lock()
        self._connector: asyncio.Task[Any] | None = None
        #: When a command was last sent or answered, and how many are being sent or answered.
        self._used_at = time.monotonic()
        self._using = 0
        #: When it is looked whether this connection is idle, and the look itself.
        self._look: asyncio.TimerHandle | None = None
        self._shedding: asyncio.Future[None] | None = None
        #: What another connection like this one is made with.
        self._keywords = GuardedDict({**keywords, "socket_timeout": socket_timeout})
        #: What Redis said when it refused a login last.
        self._said = "this login was refused a moment ago"
        keywords["socket_timeout"] = None
        own: Any = {"credential_provider": self._provider, "redis_connect_func": _log_in}
        super().__init__(**own, **keywords)

    async def connect(self) -> None:
        """Connect and log in, or see that an open connection has the login of this moment.

        redis-py calls this whenever it takes a connection out of its pool.

        Raises:
            AuthenticationError: Redis refused the login, and there was no other in time.
            CredentialsError: the store has no usable credentials.
            redis.exceptions.ConnectionError, redis.exceptions.TimeoutError: it cannot be reached.
        """
        task = asyncio.current_task()
        if task is not None and self._connector is task:
            return  # Subscribing again is part of connecting, and asks for a connection.
        async with self._connecting:
            self._connector = task
            try:
                if self._reader is not None and self._reader.at_eof():
                    # redis-py overlooks that, and the command would be the first to notice.
                    await self.disconnect(nowait=True)
                elif self.is_connected and not self._subscribes:
                    await self._follow()
                await self._connect_patiently()
            finally:
                self._connector = None

    async def disconnect(self, *args: Any, **keywords: Any) -> None:
        """Close the socket and give up the hold on the credentials."""
        try:
            await super().disconnect(*args, **keywords)  # type: ignore[misc]
        finally:
            for session in (self._session, self._asked):
                if session is not None:
                    session.end()
            self._session = self._asked = None

    async def on_connect(self) -> None:
        # Over a Unix socket redis-py calls this once too often, before anybody is to log in.
        if self._provider.credentials is not None:
            await super().on_connect()  # type: ignore[misc]

    async def read_response(self, *args: Any, **keywords: Any) -> Any:
        """Read one answer; the one to our own ``AUTH`` is not passed on."""
        if keywords.get("push_request") and self._session is not None and self._asked is None:
            # Only who waits for messages asks for this: the answer will come between them.
            newer = self._newer()
            if newer is not None:
                await self._ask(newer)
        try:
            response = await self._read_in_time(*args, **keywords)
        except AuthenticationError:
            if self._asked is None:
                raise
            response = None
            self.logins.refused(self._asked.credentials)
            self._asked.end()
            self._asked = None
        if self._asked is not None and response in _ACCEPTED:
            response = None
            session, self._asked = self._asked, None
            self._enter(session)
        return response

    async def send_packed_command(self, *args: Any, **keywords: Any) -> None:
        sending = super().send_packed_command(*args, **keywords)  # type: ignore[misc]
        await self._in_time(sending, self._socket_timeout)

    def look_later(self) -> None:
        """Look after a while whether this connection is idle, with a login that is no more."""
        if self._look is None:
            # Not all at once: the first to try a login spares the others the trouble.
            pause = self.idle_limit * random.uniform(1.0, 1.2)  # noqa: S311
            loop, shed = asyncio.get_running_loop(), weakref.WeakMethod(self._shed)
            self._look = loop.call_later(pause, _run, shed)

    def register_connect_callback(self, callback: Any) -> None:
        # Nobody else registers one: from now on only the subscriber's reader may read.
        self._subscribes = True
        super().register_connect_callback(callback)  # type: ignore[misc]

    def deregister_connect_callback(self, callback: Any) -> None:
        self._subscribes = False
        super().deregister_connect_callback(callback)  # type: ignore[misc]

    # How --------------------------------------------------------------------------------

    async def _read_in_time(self, *args: Any, **keywords: Any) -> Any:
        reading = super().read_response(*args, **keywords)  # type: ignore[misc]
        # A subscriber's reader says for how long it waits itself.
        limit = self._socket_timeout if keywords.get("timeout") is None else None
        return await self._in_time(reading, limit)

    async def _in_time(self, work: Awaitable[Any], seconds: float | None) -> Any:
        self._using += 1
        try:
            async with timeout(seconds):
                return await work
        except asyncio.TimeoutError:
            if seconds is None:
                raise
            late = exceptions.TimeoutError(f"no answer within {seconds:g} seconds")
        finally:
            self._using -= 1
            self._used_at = time.monotonic()
        await self.disconnect(nowait=True)
        raise late

    async def _connect_patiently(self) -> None:
        patience_ends = time.monotonic() + self.logins.patience
        while not self.is_connected:
            try:
                await self.connect_once()
            except AuthenticationError as error:
                refusal = scrubbed(error)
            else:
                return
            if time.monotonic() >= patience_ends:
                raise refusal
            await asyncio.sleep(_LOOK)

    async def connect_once(self) -> None:
        """Connect and log in, and wait for no other credentials. Raises what connect does."""
        self._admitted = await self._admit()
        await super().connect()  # type: ignore[misc]

    async def _admit(self) -> Credentials:
        """Return credentials that may be tried now."""
        source = self.logins.source
        credentials = await source.aget()
        if source.gate.delay(credentials.fingerprint) > 0.0:
            raise self._refusal(credentials)
        return credentials

    async def _log_in(self) -> None:
        admitted, self._admitted = self._admitted, None
        credentials = admitted or await self._admit()
        # Before the login, so that the lease cannot be revoked under it.
        session = _Session(self, credentials)
        self._provider.credentials = credentials
        failure: BaseException
        try:
            await self.on_connect()
        except AuthenticationError as error:
            self.logins.refused(credentials)
            self._said = f"login refused: {error}".rstrip(".")
            failure = self._refusal(credentials)
        except BaseException as error:  # noqa: BLE001 - its frames know the password
            failure = scrubbed(error)
        else:
            self._enter(session)
            return
        finally:
            self._provider.credentials = None
        session.end()
        # redis-py does so after errors of its own only.
        await self.disconnect(nowait=True)
        raise failure

    def _newer(self) -> Credentials | None:
        """Return what the login is to become, if Redis may be asked now; asks no store."""
        newest, session = self.logins.source.current, self._session
        if newest is None or session is None or session.is_of(newest):
            return None
        waiting = self.logins.source.gate.delay(newest.fingerprint) > 0.0
        return None if waiting else newest

    async def _follow(self) -> None:
        """Change the login of a connection that nobody uses just now; it may end closed."""
        newer = self._newer()
        if newer is None:
            return
        failure: BaseException | None = None
        try:
            await self._ask(newer)
            await self.read_response(disconnect_on_error=False)
        except BaseException as error:  # noqa: BLE001 - a cancellation leaves an answer unread
            failure = error
        if failure is not None or self._asked is not None:
            await self.disconnect(nowait=True)
        # A session that ended, maybe with its user, is what connecting again is for.
        if failure is not None and not isinstance(failure, _LOST):
            raise failure

    def _shed(self) -> None:
        """Close this connection if it is idle, with a login that is no more."""
        self._look = None
        self._shedding = asyncio.ensure_future(self._shed_if_idle())

    async def _shed_if_idle(self) -> None:
        session, newest = self._session, self.logins.source.current
        if session is None or session.is_of(newest):
            return
        if newest is not None and self._idle and await self._taken(newest):
            async with self._connecting:
                # Whoever has taken it out of the pool meanwhile has changed its login.
                if self._session is session and self._idle:
                    await self.disconnect(nowait=True)
                    return
        self.look_later()

    @property
    def _idle(self) -> bool:
        return not self._using and time.monotonic() - self._used_at >= self.idle_limit

    async def _taken(self, credentials: Credentials) -> bool:
        """Say whether Redis takes a login; a connection of its own tries one that is new.

        On this one the answer might be read by whoever takes it out of its pool just then.
        """
        if self.logins.taken != credentials.fingerprint:
            trial = type(self)(logins=self.logins, **self._keywords)
            try:
                await trial.connect_once()
            except Exception:  # noqa: BLE001 - whatever it is, the login that works is kept
                return False
            finally:
                await trial.disconnect(nowait=True)
        return self.logins.taken == credentials.fingerprint

    async def _ask(self, credentials: Credentials) -> None:
        self._asked = _Session(self, credentials)
        arguments = self.logins.arguments(credentials)
        failure: BaseException
        try:
            await self.send_command("AUTH", *arguments, check_health=False)  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001 - its frames know the password
            failure = scrubbed(error)
        else:
            return
        finally:
            # What a traceback shows of this frame must not hold the password.
            del arguments
        raise failure

    def _enter(self, session: _Session) -> None:
        if self._session is not None:
            self._session.end()
        self._session = session
        self.logins.accepted(session.credentials)
        if not session.is_of(self.logins.source.current):
            self.look_later()  # the rotation came before anybody here could hear of it

    def _refusal(self, credentials: Credentials) -> AuthenticationError:
        user = credentials.user or self.logins.user or "default"
        place = " ".join(f"{key}={value}" for key, value in self.repr_pieces())  # type: ignore[attr-defined]
        seconds = self.logins.source.gate.remaining(credentials.fingerprint)
        return AuthenticationError(
            f"Redis at {place}, user {user!r}: {self._said}"
            f" (the same login may be tried again in {seconds:.1f} s)"
        )


async def _log_in(connection: Following) -> None:
    """What redis-py calls on a new socket. No method: that would refer to the connection."""
    await connection._log_in()


def following(connection_class: type[Any]) -> type[Any]:
    """Return a subclass of one of redis-py's connection classes that takes ``logins``."""
    return _mixed(cast("Hashable", connection_class))


@lru_cache(maxsize=16)
def _mixed(connection_class: Any) -> type[Any]:
    return type(f"Following{connection_class.__name__}", (Following, connection_class), {})
