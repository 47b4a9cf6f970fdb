-- What the functions of protocol version 1 are made of. Nobody but their owner may call these.
-- "@schema@" is the schema that the migration installs into, quoted.
--
-- A notification reads: 20 characters of HMAC, sender (hex), space, number (hex), space, items
-- joined by commas. The items' first letter says what they are; layer/item.py is their reader.

-- Hands one frame to one node: the row for replay, and the notification. Who is not registered finds
-- the row if it comes back after a crash: it waits in catch_up for whoever holds the lock, before it
-- reads, or it might read too early, hear what comes next, and then drop this as old.
CREATE FUNCTION channels_pg_secrets_emit_v1(
    p_slice smallint, p_node bigint, p_sender bigint, p_seq bigint, p_body text, p_ttl double precision
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_channel text;
    v_inner bytea;
    v_outer bytea;
    v_frame text;
BEGIN
    IF p_slice = 0 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    ELSIF p_slice = 1 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    ELSIF p_slice = 2 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    END IF;
    SELECT n.channel, n.inner_pad, n.outer_pad INTO v_channel, v_inner, v_outer
    FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node;
    IF NOT FOUND THEN
        IF p_slice > 2 THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock_shared(7919, 2);
        SELECT n.channel, n.inner_pad, n.outer_pad INTO v_channel, v_inner, v_outer
        FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    v_frame := to_hex(p_sender) || ' ' || to_hex(p_seq) || ' ' || p_body;
    PERFORM pg_notify(v_channel, encode(substr(
        sha256(v_outer || sha256(v_inner || convert_to(v_frame, 'UTF8'))), 1, 15), 'base64') || v_frame);
END $$;

-- Which of a process's full channels the items of a body are messages to, joined by commas; '' for
-- none. Messages to groups, joins and leaves are none of them.
CREATE FUNCTION channels_pg_secrets_overfull_v1(p_body text, p_full text[])
RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(DISTINCT i.channel, ','), '')
    FROM (SELECT lower(left(t.item, 1)), substr(split_part(t.item, ' ', 1), 2)
          FROM unnest(string_to_array(p_body, ',')) AS t (item)) AS i (kind, channel)
    WHERE i.kind = 'c' AND i.channel = ANY (p_full);
$$;

-- In the minute after a crash, keeps what is sent to groups for those who have not written their
-- memberships again (see catch_up): under the node -1, with the layer's prefix for a blob.
CREATE FUNCTION channels_pg_secrets_keep_v1(
    p_slice smallint, p_prefix text, p_sender bigint, p_seq bigint, p_body text, p_ttl double precision
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Held by all who send while somebody may be catching up.
    PERFORM pg_advisory_xact_lock_shared(7919, 2);
    IF p_slice = 0 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, expires, body, blob)
        VALUES (-1, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body, convert_to(p_prefix, 'UTF8'))
        ON CONFLICT DO NOTHING;
    ELSIF p_slice = 1 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, expires, body, blob)
        VALUES (-1, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body, convert_to(p_prefix, 'UTF8'))
        ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, expires, body, blob)
        VALUES (-1, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body, convert_to(p_prefix, 'UTF8'))
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Gives a node a row that was kept for it.
CREATE FUNCTION channels_pg_secrets_copy_v1(
    p_slice smallint, p_node bigint, p_sender bigint, p_seq bigint, p_created timestamptz,
    p_expires timestamptz, p_body text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_slice = 0 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, created, expires, body)
        VALUES (p_node, p_sender, p_seq, p_created, p_expires, p_body) ON CONFLICT DO NOTHING;
    ELSIF p_slice = 1 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, created, expires, body)
        VALUES (p_node, p_sender, p_seq, p_created, p_expires, p_body) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, created, expires, body)
        VALUES (p_node, p_sender, p_seq, p_created, p_expires, p_body) ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Stores the body of a large message, once for all its receivers.
CREATE FUNCTION channels_pg_secrets_store_v1(
    p_slice smallint, p_sender bigint, p_seq bigint, p_blob bytea, p_ttl double precision
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_slice = 0 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, expires, blob)
        VALUES (0, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_blob);
    ELSIF p_slice = 1 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, expires, blob)
        VALUES (0, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_blob);
    ELSE
        INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, expires, blob)
        VALUES (0, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_blob);
    END IF;
END $$;

-- Tells the readers of normal channels that there is work, each once for a channel. Not numbered and
-- not kept: a node that misses it looks again when it reconnects.
CREATE FUNCTION channels_pg_secrets_wake_v1(p_prefix text, p_channels text[])
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_channel text;
BEGIN
    FOREACH v_channel IN ARRAY p_channels LOOP
        PERFORM @schema@.channels_pg_secrets_emit_v1(3::smallint, r.node, 0::bigint, 0::bigint, 'w' || v_channel, 0::double precision)
        FROM @schema@.channels_pg_secrets_reader r WHERE r.prefix = p_prefix AND r.channel = v_channel;
    END LOOP;
END $$;

-- A session plans a statement of a function anew for each call where plans for the values at hand look
-- better than one for all, and that takes longer than the statement. So the functions that look into
-- the queue for each message keep one plan, made without seq scans: the queue may be empty just then.

-- Puts one message into a normal channel; false when the channel is at capacity. Its readers are to
-- be told afterwards, by wake.
CREATE FUNCTION channels_pg_secrets_enqueue_v1(
    p_prefix text, p_channel text, p_capacity integer, p_body text, p_blob bytea, p_ttl double precision
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_first bigint;
    v_last bigint;
BEGIN
    -- Shared with other senders, against a reader who is just registering: without it the sender
    -- might not see the reader, and the reader not the message.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(p_prefix || ':' || p_channel, 7919));
    -- Counting up to a large capacity takes long. The numbers at both ends say how many there can be
    -- at most, and that is enough unless other channels have many of those in between.
    SELECT (SELECT q.id FROM @schema@.channels_pg_secrets_queue q
            WHERE q.prefix = p_prefix AND q.channel = p_channel AND q.claimed_by IS NULL
            ORDER BY q.id LIMIT 1),
           (SELECT q.id FROM @schema@.channels_pg_secrets_queue q
            WHERE q.prefix = p_prefix AND q.channel = p_channel AND q.claimed_by IS NULL
            ORDER BY q.id DESC LIMIT 1)
    INTO v_first, v_last;
    -- Two conditions, since the first alone needs no executor.
    IF p_capacity <= 1 + v_last - v_first THEN
        IF p_capacity <= (SELECT count(*) FROM (
                SELECT FROM @schema@.channels_pg_secrets_queue q
                WHERE q.prefix = p_prefix AND q.channel = p_channel AND q.claimed_by IS NULL
                  AND q.expires > clock_timestamp()
                LIMIT p_capacity) held)
        THEN
            RETURN false;
        END IF;
    END IF;
    INSERT INTO @schema@.channels_pg_secrets_queue (prefix, channel, expires, body, blob)
    VALUES (p_prefix, p_channel, clock_timestamp() + make_interval(secs => p_ttl), p_body, p_blob);
    RETURN true;
END $$;

-- Deletes messages of normal channels that a node has handed over, each under the claim it had. One
-- that is locked is about to be deleted by a statement whose connection broke: waiting for that would
-- hold up all that the node publishes, and if it comes to nothing the node finds the row again.
CREATE FUNCTION channels_pg_secrets_delete_v1(p_node bigint, p_rows bigint[], p_claims bigint[])
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    FOR i IN 1 .. cardinality(p_rows) LOOP
        DELETE FROM @schema@.channels_pg_secrets_queue q WHERE q.ctid = (
            SELECT c.ctid FROM @schema@.channels_pg_secrets_queue c
            WHERE c.claimed_by = p_node AND c.id = p_rows[i] AND c.claim = p_claims[i]
            FOR UPDATE SKIP LOCKED);
    END LOOP;
END $$;

-- One numberless item to several nodes, its body apart where it does not fit. p_prefix is set for a
-- group message: after a crash it is kept for those who are not back yet, as keep says.
CREATE FUNCTION channels_pg_secrets_scatter_v1(
    p_nodes bigint[], p_item text, p_large text, p_blob bytea, p_ttl double precision, p_prefix text
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_slice smallint;
    v_young boolean;
    v_id bigint := ('x' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 15))::bit(60)::bigint;
BEGIN
    SELECT s.slice, s.created > clock_timestamp() - interval '60 seconds' INTO v_slice, v_young
    FROM @schema@.channels_pg_secrets_state s;
    IF NOT FOUND THEN
        -- Nobody has registered yet after a crash. Who does finds the row in the slice that is then
        -- the first; to write the state here would make all wait for the end of a user's transaction.
        v_slice := 0;
        v_young := true;
    END IF;
    IF length(p_item) >= 7900 THEN
        PERFORM @schema@.channels_pg_secrets_store_v1(v_slice, 0::bigint, v_id, p_blob, p_ttl);
        p_item := p_large;
    END IF;
    IF p_prefix IS NOT NULL AND v_young THEN
        PERFORM @schema@.channels_pg_secrets_keep_v1(v_slice, p_prefix, 0::bigint, v_id, p_item, p_ttl);
    END IF;
    PERFORM @schema@.channels_pg_secrets_emit_v1(v_slice, u.node, 0::bigint, v_id, p_item, p_ttl) FROM unnest(p_nodes) AS u (node);
END $$;

CREATE FUNCTION channels_pg_secrets_check_v1(p_name text, p_message jsonb)
RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_name IS NULL OR p_name !~ '^[a-zA-Z0-9._-]+(![a-zA-Z0-9._-]*)?$' OR length(p_name) >= 100 THEN
        RAISE EXCEPTION 'not a valid channel or group name: %', p_name USING ERRCODE = '22023',
            HINT = 'ASCII letters, digits, hyphens, underscores and periods, fewer than 100.';
    END IF;
    IF p_message IS NULL OR jsonb_typeof(p_message) <> 'object' THEN
        RAISE EXCEPTION 'a channel layer message is a JSON object' USING ERRCODE = '22023';
    END IF;
END $$;

-- Removes silent nodes with all they had, expired rows, and the oldest slice of messages. What is
-- locked is left to the next sweep: whoever sweeps holds locks that everybody wants sooner or later,
-- and the lock of a statement that waits for a standby may be held for hours.
CREATE FUNCTION channels_pg_secrets_sweep_v1(p_stale double precision)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_stale timestamptz := v_now - make_interval(secs => p_stale);
    s @schema@.channels_pg_secrets_state%ROWTYPE;
    v_next smallint;
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    UPDATE @schema@.channels_pg_secrets_state t SET swept = v_now,
        awake = CASE WHEN t.swept < v_now - make_interval(secs => p_stale / 3) THEN v_now ELSE t.awake END
    RETURNING * INTO s;
    -- When nobody could report for a while, the first to come back must not take the others for dead.
    IF s.awake <= v_stale THEN
        WITH dead AS (
                DELETE FROM @schema@.channels_pg_secrets_node n WHERE n.ctid = ANY (ARRAY(
                    SELECT x.ctid FROM @schema@.channels_pg_secrets_node x WHERE x.seen < v_stale FOR UPDATE SKIP LOCKED))
                RETURNING n.id),
            m AS (DELETE FROM @schema@.channels_pg_secrets_member m USING dead WHERE m.node = dead.id)
        DELETE FROM @schema@.channels_pg_secrets_reader r USING dead WHERE r.node = dead.id;
    END IF;
    IF s.refusing THEN
        UPDATE @schema@.channels_pg_secrets_state t SET refusing = (
            EXISTS (SELECT FROM @schema@.channels_pg_secrets_node n WHERE n.full_channels IS NOT NULL));
    END IF;
    DELETE FROM @schema@.channels_pg_secrets_member m WHERE m.ctid = ANY (ARRAY(
        SELECT x.ctid FROM @schema@.channels_pg_secrets_member x WHERE x.expires < v_now FOR UPDATE SKIP LOCKED));
    DELETE FROM @schema@.channels_pg_secrets_normal_member m WHERE m.ctid = ANY (ARRAY(
        SELECT x.ctid FROM @schema@.channels_pg_secrets_normal_member x WHERE x.expires < v_now FOR UPDATE SKIP LOCKED));
    DELETE FROM @schema@.channels_pg_secrets_queue q WHERE q.ctid = ANY (ARRAY(
        SELECT x.ctid FROM @schema@.channels_pg_secrets_queue x WHERE x.expires < v_now FOR UPDATE SKIP LOCKED));
    IF s.created < v_stale THEN
        -- Claimed by a process that died, and perhaps already handed over: rather dropped than
        -- delivered twice. Not right after a crash, when nobody has registered again yet.
        DELETE FROM @schema@.channels_pg_secrets_queue q WHERE q.ctid = ANY (ARRAY(
            SELECT x.ctid FROM @schema@.channels_pg_secrets_queue x WHERE x.claimed_by IS NOT NULL
            AND NOT EXISTS (SELECT FROM @schema@.channels_pg_secrets_node n WHERE n.id = x.claimed_by)
            FOR UPDATE SKIP LOCKED));
        DELETE FROM @schema@.channels_pg_secrets_sent t WHERE t.ctid = ANY (ARRAY(
            SELECT x.ctid FROM @schema@.channels_pg_secrets_sent x WHERE x.at < v_now - interval '1 hour'
            AND NOT EXISTS (SELECT FROM @schema@.channels_pg_secrets_node n WHERE n.id = x.sender)
            FOR UPDATE SKIP LOCKED));
    END IF;
    -- Rows must last as long as the most patient layer wants.
    IF s.slice_since + make_interval(secs => (
            SELECT coalesce(max(n.span), 0) FROM @schema@.channels_pg_secrets_node n)) > v_now THEN
        RETURN;
    END IF;
    v_next := (s.slice + 1) % 3;
    BEGIN
        IF v_next = 0 AND pg_relation_size('@schema@.channels_pg_secrets_message_0') > 0 THEN
            TRUNCATE @schema@.channels_pg_secrets_message_0;
        ELSIF v_next = 1 AND pg_relation_size('@schema@.channels_pg_secrets_message_1') > 0 THEN
            TRUNCATE @schema@.channels_pg_secrets_message_1;
        ELSIF v_next = 2 AND pg_relation_size('@schema@.channels_pg_secrets_message_2') > 0 THEN
            TRUNCATE @schema@.channels_pg_secrets_message_2;
        END IF;
        UPDATE @schema@.channels_pg_secrets_state SET slice = v_next, slice_since = v_now;
    EXCEPTION WHEN lock_not_available THEN
        NULL;  -- somebody replays from that slice just now; the next heartbeat tries again
    END;
END $$;
