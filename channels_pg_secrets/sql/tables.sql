-- Tables of the channel layer. Only the functions in functions_v1.sql touch them; runtime roles
-- hold no right on any of them.
--
-- All but those of normal channels ("queue", "sent", "normal_member") are UNLOGGED: what they hold is
-- either rebuilt by the live processes (nodes, members, readers) or kept by its sender until it is
-- old (messages). A crash or a promotion empties them, which the missing "state" row tells everybody.

CREATE UNLOGGED TABLE channels_pg_secrets_state (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    incarnation bigint NOT NULL,
    created     timestamptz NOT NULL DEFAULT clock_timestamp(),
    slice       smallint NOT NULL DEFAULT 0,
    slice_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The last sweep, and since when sweeps have come without a gap.
    swept       timestamptz NOT NULL DEFAULT clock_timestamp(),
    awake       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Some process has full channels: publishing looks which, and only then.
    refusing    boolean NOT NULL DEFAULT false
);
-- The first life of the tables follows no crash: nobody can have been thrown out of them.
INSERT INTO channels_pg_secrets_state (incarnation, created)
VALUES (('x' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 15))::bit(60)::bigint, '-infinity');

-- How often each layer was flushed; no row: never.
CREATE UNLOGGED TABLE channels_pg_secrets_epoch (
    prefix text PRIMARY KEY,
    epoch  bigint NOT NULL,
    flush  bigint NOT NULL  -- the call that began it
);

-- One row per process and layer. "channel" is the name it LISTENs on: random, and unreadable to
-- other roles. The two pads are those of HMAC-SHA256 (RFC 2104), prepared once by the node.
CREATE UNLOGGED TABLE channels_pg_secrets_node (
    id        bigint PRIMARY KEY,
    prefix    text NOT NULL,
    -- What NOTIFY does not take would end every statement of those who send to its groups.
    channel   text NOT NULL CHECK (octet_length(channel) BETWEEN 1 AND 63),
    inner_pad bytea NOT NULL,
    outer_pad bytea NOT NULL,
    seen      timestamptz NOT NULL DEFAULT clock_timestamp(),
    flushed   bigint NOT NULL DEFAULT 0,
    -- Seconds for which a time slice must be kept on this layer's account.
    span      double precision NOT NULL,
    -- The latest of its statements about members: a ghost of an earlier one comes too late.
    written   bigint NOT NULL DEFAULT 0,
    -- Channels of its own that take no more for now; NULL, the usual case: none. The number is that
    -- of the latest statement about them, as for "written".
    full_channels text[],
    full_version  bigint NOT NULL DEFAULT 0,
    -- The number of its first claim that counts: one of an earlier connection that arrives yet does not.
    claims_from   bigint NOT NULL DEFAULT 0,
    -- Random, made for each registration: one that comes again finds its row, or another that is new.
    entry         bigint NOT NULL
) WITH (fillfactor = 50);

-- The nodes that have members of a group. "foreign_adds" counts joins written by other nodes, so that
-- the owner's "no members left" cannot delete a join it has not heard of yet.
CREATE UNLOGGED TABLE channels_pg_secrets_member (
    prefix       text NOT NULL,
    grp          text NOT NULL,
    node         bigint NOT NULL,
    expires      timestamptz NOT NULL,
    foreign_adds integer NOT NULL DEFAULT 0,
    PRIMARY KEY (prefix, grp, node)
);
CREATE INDEX channels_pg_secrets_member_node ON channels_pg_secrets_member (node);
CREATE INDEX channels_pg_secrets_member_expires ON channels_pg_secrets_member (expires);

-- Which nodes have receivers on which normal channels, and so are told of new work.
CREATE UNLOGGED TABLE channels_pg_secrets_reader (
    prefix  text NOT NULL,
    channel text NOT NULL,
    node    bigint NOT NULL,
    PRIMARY KEY (prefix, channel, node)
);
CREATE INDEX channels_pg_secrets_reader_node ON channels_pg_secrets_reader (node);

-- Three time slices of what was notified, for replay; the oldest is TRUNCATEd as a whole.
-- node = 0 holds the body of a message too large for a notification, once for all its receivers.
-- "body" never exceeds a notification, so it is stored plainly; nothing here is worth compressing.
CREATE UNLOGGED TABLE channels_pg_secrets_message_0 (
    node    bigint NOT NULL,
    sender  bigint NOT NULL,
    seq     bigint NOT NULL,
    created timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires timestamptz NOT NULL,
    body    text,
    blob    bytea,
    PRIMARY KEY (node, sender, seq)
);
ALTER TABLE channels_pg_secrets_message_0 ALTER COLUMN body SET STORAGE PLAIN;
ALTER TABLE channels_pg_secrets_message_0 ALTER COLUMN blob SET STORAGE EXTERNAL;
CREATE UNLOGGED TABLE channels_pg_secrets_message_1
    (LIKE channels_pg_secrets_message_0 INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING INDEXES);
CREATE UNLOGGED TABLE channels_pg_secrets_message_2
    (LIKE channels_pg_secrets_message_0 INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING INDEXES);

-- All of them, for reading.
CREATE VIEW channels_pg_secrets_message AS
    SELECT * FROM channels_pg_secrets_message_0
    UNION ALL SELECT * FROM channels_pg_secrets_message_1
    UNION ALL SELECT * FROM channels_pg_secrets_message_2;

-- Normal channels: work that any process may take. Logged, since no receiver could tell a
-- re-sent message from one that another worker has already finished.
CREATE TABLE channels_pg_secrets_queue (
    prefix     text NOT NULL,
    channel    text NOT NULL,
    id         bigint GENERATED ALWAYS AS IDENTITY,
    created    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires    timestamptz NOT NULL,
    body       text,
    blob       bytea,
    claimed_by bigint,
    claim      bigint,
    -- In this order, and no index on the number alone: a plan might look for a channel's first message
    -- among those of all channels.
    PRIMARY KEY (prefix, channel, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX channels_pg_secrets_queue_claimed ON channels_pg_secrets_queue (claimed_by, id)
    WHERE claimed_by IS NOT NULL;
CREATE INDEX channels_pg_secrets_queue_expires ON channels_pg_secrets_queue (expires);

-- The normal channels in a group. Logged: they are nobody's, so whoever added one may be gone, and
-- what is sent to the group right after a crash must find it.
CREATE TABLE channels_pg_secrets_normal_member (
    prefix   text NOT NULL,
    grp      text NOT NULL,
    channel  text NOT NULL,
    expires  timestamptz NOT NULL,
    capacity integer NOT NULL,
    PRIMARY KEY (prefix, grp, channel)
);
CREATE INDEX channels_pg_secrets_normal_member_expires ON channels_pg_secrets_normal_member (expires);

-- The last batch of each sender that put work into the queue, written in the same transaction,
-- so that a batch in doubt is never queued twice.
CREATE TABLE channels_pg_secrets_sent (
    sender  bigint PRIMARY KEY,
    base    bigint NOT NULL,
    refused text NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
