"""The channel layer on PostgreSQL: from ``send`` to ``receive``.

Read in this order: :mod:`.channel_layer` (what Channels calls), :mod:`.node` (one per process),
:mod:`.outbox` and :mod:`.publisher` (messages on their way out), :mod:`.listener` (on their way
in), :mod:`.mailbox` (waiting for their receiver), :mod:`.supervisor` (connections, rotation).
"""
