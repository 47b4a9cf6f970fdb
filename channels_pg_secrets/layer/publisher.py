"""The publishing connection: one statement in flight, whatever there is to write.

Whatever queues up while a statement is in flight goes out with the next: no timer, so nothing waits
when the layer is idle, and a commit is shared when it is busy.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.call import Call, Job
from channels_pg_secrets.layer.complaints import Complaints
from channels_pg_secrets.layer.wire import Rows, Wire, WireLost

if TYPE_CHECKING:
    from channels_pg_secrets.layer.health import Health
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.membership import Memberships
    from channels_pg_secrets.layer.outbox import Batch, Outbox
    from channels_pg_secrets.layer.peers import Peers
    from channels_pg_secrets.layer.tenure import Tenure

# What passes by itself: serialization and deadlock, resources, a full NOTIFY queue, a lock's
# time-out, a cancel.
TRANSIENT = ("40", "53", "54000", "55P03", "57014")
#: What a dropped role or a lost grant looks like on an open session.
_RIGHTS = ("42501", "42704", "28")
#: A statement and its values.
_Request = tuple[statements.Statement, Sequence[Any]]
#: Rows with these numbers are there: of a batch in doubt, perhaps.
_DUPLICATE = "23505"
_NOT_INSTALLED = ("42883", "42P01", "3F000")


class Publisher:
    """Sends what the jobs have, round robin, over one wire. Belongs to the home loop."""

    def __init__(self, identity: Identity, jobs: Sequence[Job], tenure: Tenure) -> None:
        self.wire: Wire | None = None
        #: Called when the tables do not know this node, and when its rights are gone.
        self.on_unknown: Callable[[], None] = _nothing
        self.on_rights_lost: Callable[[Exception], None] = _ignore
        self._identity = identity
        self._jobs = list(jobs)
        self._tenure = tenure
        self._held = True
        #: No statement of a job is unanswered.
        self.settled = asyncio.Event()
        self.settled.set()
        #: How often in a row statements of a job were refused; no entry where the last was taken.
        self._refusals: dict[Job, int] = {}
        #: Jobs that wait before they try again.
        self._paused: set[Job] = set()
        self._complaints = Complaints()

    def hold(self) -> None:
        """Send nothing until :meth:`release`; what is in flight goes on."""
        self._held = True

    def release(self) -> None:
        """The node is known to the database: go on."""
        self._held = False
        self.pump()

    def use(self, wire: Wire | None) -> Wire | None:
        """Switch connections; returns the one used before. Not while something is in flight."""
        old, self.wire = self.wire, wire
        if old is not None:
            old.on_idle = _nothing
        if wire is not None:
            wire.on_idle = self.pump
        return old

    def pump(self) -> None:
        """Send the next statement, if the wire is free and there is one."""
        wire = self.wire
        if wire is None or self._held or not wire.idle:
            return
        jobs = self._jobs
        with self._tenure.lock:
            if not self._tenure.current:
                return
            for turn, job in enumerate(jobs, 1):
                if not job.waiting or job in self._paused:
                    continue
                call = job.next_call(self._identity)
                if call is not None:
                    jobs[:] = jobs[turn:] + jobs[:turn]  # the others' turn next
                    self._send(wire, job, call)
                    return

    def _send(self, wire: Wire, job: Job, call: Call) -> None:
        self.settled.clear()

        def reply(rows: Rows, error: Exception | None) -> None:
            self.settled.set()
            with self._tenure.lock:
                if not self._tenure.current:
                    return
                if error is not None:
                    self._failed(job, call, error)
                elif call.done(rows):
                    self._refusals.pop(job, None)  # the wire is idle next, and says so
                else:
                    call.in_doubt()
                    self.on_unknown()

        try:
            wire.submit(call.statement, call.values, reply)
        except (struct.error, ValueError, TypeError) as error:  # a value that no column can hold
            reply([], error)

    def _failed(self, job: Job, call: Call, error: Exception) -> None:
        state = getattr(error, "sqlstate", None) or ""
        if isinstance(error, WireLost):
            call.in_doubt()
        elif state.startswith(_RIGHTS):
            call.in_doubt()
            self.on_rights_lost(error)
        elif state.startswith(TRANSIENT):
            call.in_doubt()
            self._back_off(job, error)
        elif state in _NOT_INSTALLED:
            call.refused(not_installed(error))
            self.pump()
        elif state == _DUPLICATE:
            call.refused(error)
            self._back_off(job, error)  # what is in doubt is looked for again, but not at once
        else:
            call.refused(error)
            self.pump()

    def _back_off(self, job: Job, error: Exception) -> None:
        """Let a job wait before its next statement; the others go on."""
        # A pause for all would be as long as that of the worst, and end with the others' success.
        reason = str(error).partition("\n")[0]
        self._complaints.warn("refused", "The database refuses work for now: %s", reason)
        refusals = self._refusals.get(job, 0)
        self._refusals[job] = min(refusals + 1, 10)
        self._paused.add(job)
        delay = min(1.0, 0.02 * 2**refusals) * (0.5 + random.random() / 2)  # noqa: S311
        asyncio.get_running_loop().call_later(delay, self._resume, job)

    def _resume(self, job: Job) -> None:
        self._paused.discard(job)
        self.pump()


class OutboxJob:
    """Publishes batches of messages."""

    def __init__(
        self, outbox: Outbox, peers: Peers, health: Health, times: tuple[float, float, float]
    ) -> None:
        """``times``: seconds that a row for replay, a normal channel's and a membership last."""
        self._outbox = outbox
        self._peers = peers
        self._health = health
        self._times = times

    @property
    def waiting(self) -> bool:
        """There are messages."""
        return self._outbox.waiting

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next batch's ``publish``, ``publish_frame`` or ``publish_group``."""
        outbox = self._outbox
        batch = outbox.next_batch()
        if batch is None:
            return None

        def done(rows: Rows) -> bool:
            status, refused = rows[0]
            if status == 0:
                self._done(batch, refused)
            elif status == 2:
                outbox.refuse(batch, refused.split(","))
            return bool(status != 1)

        def group_done(rows: Rows) -> bool:
            refused = rows[0][0]
            if refused is not None:
                self._done(batch, refused)
            return refused is not None

        def frame_done(rows: Rows) -> bool:
            full = rows[0][0]
            if full:
                outbox.refuse(batch, full.split(","))
            elif full is not None:
                outbox.done(batch, ())
            return full is not None

        def in_doubt() -> None:
            batch.retry = True

        def refused(error: Exception) -> None:
            if batch.retry and getattr(error, "sqlstate", None) == _DUPLICATE:
                # Under repeatable read its ghost may have committed since our snapshot: look again.
                return
            if len(batch.elements) > 1:
                outbox.split(batch)
            else:
                outbox.fail(batch, refusal(error))

        if batch.is_single:
            if (frame := self._frame(identity, batch)) is not None:
                return Call(*frame, frame_done, in_doubt, refused)
            if (group := self._group(identity, batch)) is not None:
                return Call(*group, group_done, in_doubt, refused)
        head = (identity.prefix, identity.node, identity.incarnation, batch.base, batch.retry)
        values = (*head, *self._times, *batch.columns())
        return Call(statements.PUBLISH, values, done, in_doubt, refused)

    def _done(self, batch: Batch, refused: str) -> None:
        """The batch is committed; ``refused`` is as ``publish`` has it."""
        numbers = set()
        for entry in refused.split(",") if refused else ():
            number, _, full = entry.partition(":")
            if not full:
                numbers.add(int(number))
            elif batch.elements[int(number) - 1][0].future is not None:
                self._health.overflowed(full)  # not again for what is sent again after a crash
        self._outbox.done(batch, numbers)

    def _frame(self, identity: Identity, batch: Batch) -> _Request | None:
        """A frame for a process that we know how to reach."""
        out = batch.elements[0][0]
        if out.node is None or out.group is not None:
            return None
        peer = self._peers.get(out.node)
        if peer is None:
            return None
        number, body = batch.base + 1, batch.body()
        head = peer.key.seal(identity.node, number, body)
        from_us = (identity.node, identity.incarnation, number)
        return statements.PUBLISH_FRAME, (
            *from_us,
            out.node,
            body,
            peer.channel,
            head,
            self._times[0],
            out.blob,
        )

    def _group(self, identity: Identity, batch: Batch) -> _Request | None:
        """A message to a group."""
        out = batch.elements[0][0]
        if out.node is not None or out.group is None:
            return None
        from_us = (identity.prefix, identity.node, identity.incarnation, batch.base)
        values = (*from_us, out.group, out.item, *self._times[:2], out.blob)
        return statements.PUBLISH_GROUP, values


class MembershipJob:
    """Writes the group memberships that changed."""

    def __init__(self, memberships: Memberships) -> None:
        self._memberships = memberships

    @property
    def waiting(self) -> bool:
        """Groups have changed."""
        return self._memberships.dirty

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next ``members``."""
        memberships = self._memberships
        change = memberships.take_dirty()
        if change is None:
            return None

        def done(rows: Rows) -> bool:
            if rows[0][0] == 0:
                memberships.written(change)
                return True
            return False

        def in_doubt() -> None:
            memberships.failed(change)

        def refused(error: Exception) -> None:
            memberships.abandoned(change, refusal(error))

        ttls = (memberships.row_ttl, memberships.group_expiry)
        head = (identity.prefix, identity.node, identity.incarnation, change.version, *ttls)
        return Call(statements.MEMBERS, (*head, *change.columns()), done, in_doubt, refused)


def not_installed(error: Exception) -> ChannelLayerUnavailable:
    """Return the error for a database without our functions."""
    missing = ChannelLayerUnavailable(
        "The channel layer's functions are missing in the database that it connects to"
        f" ({str(error).splitlines()[0]}). Run `manage.py migrate channels_pg_secrets` there, with"
        " 'channels_pg_secrets' in INSTALLED_APPS; if that is done, check the search_path of the"
        " layer's connections."
    )
    missing.__cause__ = error
    return missing


def not_granted(error: Exception) -> ChannelLayerUnavailable:
    """Return the error for a role without EXECUTE on our functions."""
    forbidden = ChannelLayerUnavailable(
        f"The layer's database role may not do what it must ({str(error).splitlines()[0]})."
        " `manage.py channels_pg_secrets grants` prints the rights that it needs."
    )
    forbidden.__cause__ = error
    return forbidden


def refusal(error: Exception) -> ChannelLayerUnavailable:
    """Return the error that a sender sees when the server will not have its message."""
    if isinstance(error, ChannelLayerUnavailable):
        return error
    refused = ChannelLayerUnavailable(f"PostgreSQL refused the message: {error}")
    refused.__cause__ = error
    return refused


def _ignore(_error: Exception) -> None:
    pass


def _nothing() -> None:
    pass
