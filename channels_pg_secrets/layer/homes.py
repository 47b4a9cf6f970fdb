"""Which home a node has: found at each use, moved when it stops, looked after when it was left."""

from __future__ import annotations

import asyncio
import functools
import weakref
from typing import TYPE_CHECKING

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer.candidate import (
    FIRST_TRIAL,
    LONGEST_TRIAL,
    TRIAL_GROWTH,
    Candidate,
)
from channels_pg_secrets.layer.home import SETTLED, STUCK, Home
from channels_pg_secrets.layer.tenure import Succession
from channels_pg_secrets.layer.wakeup import running_loop

if TYPE_CHECKING:
    from channels_pg_secrets.layer.node import Node


class Homes:
    """The present home of a node, and those it has left. Safe from any thread."""

    def __init__(self, node: Node) -> None:
        self.succession = Succession()
        self.current: Home | None = None
        self.closed = False
        self._node = node
        # One lock for the home and for whoever acts in its name, so that no two can cross.
        self._lock = self.succession.lock
        self._watching: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        #: Left while their loop stood still: their connections are to be given back yet.
        self._left: list[Home] = []
        #: Seconds that a loop that only sends must have run on to become home.
        self._trial = FIRST_TRIAL

    def attach(self, *, receiving: bool = False) -> Home:
        """Make sure that there is a home, and return it. On an event loop.

        Raises:
            ChannelLayerUnavailable: the layer was closed.
        """
        loop = asyncio.get_running_loop()
        home = self.current
        if home is not None and (home.loop is not loop or home.ended):
            home = None
        if home is not None and (home.watched or not receiving):
            return home
        if self.closed:
            raise layer_closed()
        if receiving and loop not in self._watching:
            self._watching.add(loop)
            loop.call_later(STUCK, self._watch, loop)
        if home is not None:
            home.watched = True
            return home
        with self._lock:
            home = self.current
            if home is None or not home.usable(loop):
                home = self._move(loop if receiving else None)
            if home.private and receiving and _is_gone(home.courted_by):
                home.courted_by = loop
                loop.call_later(SETTLED, self._move_to_receiver, home, loop)
            elif home.private and not receiving and _is_gone(home.on_trial):
                home.on_trial = loop
                Candidate(
                    loop,
                    self._trial,
                    elected=functools.partial(self._move_to_sender, home, loop),
                    dropped=functools.partial(_drop_sender, home),
                    wanted=lambda: self.current is home,
                )
        return home

    def kick(self) -> None:
        """Publish what there is, if there is a home to do it."""
        home = self.current
        if home is not None:
            home.kick()

    def stop(self) -> None:
        """End the home; messages and memberships stay, and the next use starts another."""
        with self._lock:
            home, self.current = self.current, None
            if home is not None:
                home.tenure.end()
                self._leave(home)
                self._node.recover()

    def stop_soon(self) -> None:
        """The same from where no lock may be waited for: the garbage collector, or exit."""
        home = self.current
        if home is not None:
            home.run_soon(self.stop)

    def close(self) -> None:
        """End the home for good."""
        with self._lock:
            self.closed = True
            self.stop()

    def ended(self, home: Home) -> None:
        """A home stepped down: its loop is closing, its task was cancelled, or it was replaced."""
        with self._lock:
            if self.current is not home:
                return
            home.tenure.end()
            self.current = None
            self._learn_from(home)
            self._node.recover()
            if self._node.somebody_waits():
                self._move(None)

    def sweep(self) -> None:
        """Give back the connections of homes whose loops were closed after they were left."""
        with self._lock:
            self._left = [home for home in self._left if not home.released]

    def _move(self, loop: asyncio.AbstractEventLoop | None) -> Home:
        """Move home to this loop, or to a private one; the home before hands over at once."""
        before = self.current
        home = self.current = Home(self._node, loop)
        self._node.recover()
        home.launch()
        if before is not None:
            self._leave(before)
        return home

    def _move_to_sender(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        """That home is private and this loop went on sending: move, if home is still that one."""
        if home.replacing:
            _drop_sender(home)
            return
        with self._lock:
            if self.current is home and not self.closed:
                self._move(loop).sends = True

    def _leave(self, home: Home) -> None:
        self._learn_from(home)
        home.stop()
        if home.loop is not running_loop():
            self._node.mailboxes.reclaim(home.loop)
        if not home.released:
            self._left.append(home)

    def _learn_from(self, home: Home) -> None:
        """A loop that went on sending has ended after all: the next is looked at for longer."""
        if home.sends:
            home.sends = False
            self._trial = min(self._trial * TRIAL_GROWTH, LONGEST_TRIAL)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Find another home if the present one stops, for as long as somebody receives here.

        Senders look after that themselves; receivers share a watch in each loop.
        """
        if not self.closed and self._node.receives_in(loop):
            self.attach(receiving=True)
            loop.call_later(STUCK, self._watch, loop)
        else:
            self._watching.discard(loop)
            if self.current is not None and self.current.loop is loop:
                self.current.watched = False

    def _move_to_receiver(self, home: Home, loop: asyncio.AbstractEventLoop) -> None:
        """That home is private and somebody received here: move, if that is still so."""
        if home.replacing:
            loop.call_later(SETTLED, self._move_to_receiver, home, loop)
            return
        with self._lock:
            home.courted_by = None
            if self.current is home and self._node.receives_in(loop):
                self._move(loop)


def _drop_sender(home: Home) -> None:
    home.on_trial = None


def _is_gone(loop: asyncio.AbstractEventLoop | None) -> bool:
    """No loop, or one in which nothing will be called any more."""
    return loop is None or loop.is_closed()


def layer_closed() -> ChannelLayerUnavailable:
    """Return the error for whoever waits for anything of a layer that is closed meanwhile."""
    return ChannelLayerUnavailable("The channel layer was closed")
