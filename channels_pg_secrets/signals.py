"""Django signals that say how a channel layer is doing.

Each is sent with the class of the layer's engine as ``sender``, and with ``prefix`` (the layer's)
and ``node`` (which process it is, as in ``layer.stats()``) beside what is named below. Nothing in
them is secret, and nothing is of a message.

Receivers are called on the event loop that keeps the layer's connections, at most a quarter of a
second after what they tell of, and never while the layer holds a lock. They are plain functions
that must not block. An exception of theirs is logged, and harms nobody else.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["connected", "disconnected", "dropped", "over_capacity", "replayed", "rotated"]

#: A connection is in use: ``connection`` (``"publisher"`` or ``"listener"``), and the
#: ``generation`` of the credentials that it logged in with.
connected = Signal()

#: A connection ended by itself: ``connection``, and the ``reason`` in one line.
disconnected = Signal()

#: A connection is in use whose credentials are others than those of the one before:
#: ``connection`` and ``generation``. It follows a ``connected``.
rotated = Signal()

#: So many ``frames``, each of one or more messages, came while this process did not listen, and
#: were read from the tables.
replayed = Signal()

#: So many ``messages`` were dropped in this process, or at normal channels in groups that it sent
#: to, since the last time, for one ``reason``:
#: ``"over_capacity"``, ``"expired"`` or ``"unreadable"``.
dropped = Signal()

#: So many ``channels`` of this process have filled up since the last time, and normal channels did
#: not take what it sent to their groups; at most 1000 are told apart. ``channel`` is the one
#: that cost most, and ``messages`` how many were dropped at all of them.
over_capacity = Signal()
