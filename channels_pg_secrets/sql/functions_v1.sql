-- Functions of the channel layer, protocol version 1. Owned by the owner of the tables and run with
-- its rights; EXECUTE is for the runtime roles alone (`manage.py channels_pg_secrets grants`).
-- "@schema@" is the schema that the migration installs into, quoted.

-- Publishes one batch. Element i has the number p_base + i and is one of
--   node only                a frame for that process
--   node and group           a join (the membership of that node, and the frame that tells it) or
--                            a leave (the frame)
--   group only               a group message
--   channel                  a normal channel's message
-- p_blobs[i] is set for what does not fit into a notification, which its item says ("C" and "G"). It
-- is looked at only where it is written: each unnest() would copy all of them.
-- Status 0: done, with the elements refused for capacity, and the joins and leaves of processes that
-- are gone, by their i; and where a normal channel in a group was full, i, a colon and its name.
-- Status 1: these tables do not know the caller (a crash emptied them, or it was silent
-- for too long); nothing was done. Status 2: the channels of other processes that are "refused", by
-- name, are full; nothing was done, and the caller takes out what is for them. A retry is never told
-- so, since its first try may be carried out yet: its messages to full channels end at their owner.
CREATE FUNCTION channels_pg_secrets_publish_v1(
    p_prefix text, p_sender bigint, p_incarnation bigint, p_base bigint, p_retry boolean,
    p_ttl double precision, p_queue_ttl double precision, p_member_ttl double precision,
    p_nodes bigint[], p_groups text[], p_channels text[], p_capacities integer[],
    p_bodies text[], p_blobs bytea[],
    OUT status integer, OUT refused text
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_limit CONSTANT integer := 7900;  -- of 7999, less the HMAC and two numbers
    v_slice smallint;
    v_queues boolean := array_remove(p_channels, NULL) <> '{}';
    v_skip_frames boolean := false;
    v_skip_queue boolean := false;
    v_refusing boolean;
    v_young boolean;
    v_node bigint;
    v_body text;
    v_large boolean;
    v_seq bigint;
    v_woken text[] := '{}';
    v_refused text[] := '{}';
    r record;
BEGIN
    IF NOT v_queues THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    status := 0;
    refused := '';
    -- One batch of a sender at a time. A retry waits here for the ghost of its first try, whose
    -- connection broke but whose transaction may still commit.
    IF p_retry THEN
        PERFORM set_config('lock_timeout', '4s', true);
    END IF;
    PERFORM pg_advisory_xact_lock(p_sender);
    SELECT s.slice, s.refusing, s.created > clock_timestamp() - interval '60 seconds'
    INTO v_slice, v_refusing, v_young
    FROM @schema@.channels_pg_secrets_state s WHERE s.incarnation = p_incarnation;
    IF NOT FOUND THEN
        status := 1;
        RETURN;
    END IF;
    IF v_refusing AND NOT p_retry THEN
        SELECT coalesce(string_agg(nullif(@schema@.channels_pg_secrets_overfull_v1(e.body, n.full_channels), ''), ','), '')
        INTO refused
        FROM unnest(p_nodes, p_groups, p_bodies) AS e (node, grp, body)
        JOIN @schema@.channels_pg_secrets_node n ON n.id = e.node
        WHERE e.grp IS NULL AND n.full_channels IS NOT NULL;
        IF refused <> '' THEN
            status := 2;
            RETURN;
        END IF;
    END IF;

    IF p_retry THEN
        SELECT EXISTS (SELECT FROM @schema@.channels_pg_secrets_message m WHERE m.sender = p_sender AND m.seq > p_base)
        INTO v_skip_frames;
    END IF;
    -- A first try too: its packets may come after the retry that took its place.
    IF p_retry OR v_queues THEN
        SELECT true, CASE WHEN s.base = p_base THEN s.refused ELSE '' END INTO v_skip_queue, refused
        FROM @schema@.channels_pg_secrets_sent s WHERE s.sender = p_sender AND s.base >= p_base;
        IF NOT FOUND THEN
            v_skip_queue := false;
            refused := '';
        END IF;
    END IF;

    IF NOT v_skip_frames THEN
        IF v_young THEN
            PERFORM @schema@.channels_pg_secrets_keep_v1(v_slice, p_prefix, p_sender, p_base + e.ord, e.body, p_ttl)
            FROM unnest(p_nodes, p_groups, p_bodies) WITH ORDINALITY AS e (node, grp, body, ord)
            WHERE e.node IS NULL AND e.grp IS NOT NULL;
        END IF;
        FOR r IN
            SELECT e.node, e.grp, e.body, e.ord, left(e.body, 1) IN ('C', 'G') AS large
            FROM unnest(p_nodes, p_groups, p_channels, p_bodies)
                WITH ORDINALITY AS e (node, grp, channel, body, ord)
            WHERE e.channel IS NULL
              AND (left(e.body, 1) IN ('C', 'G') OR (e.node IS NOT NULL AND e.grp IS NOT NULL))
            ORDER BY e.grp, e.ord
        LOOP
            IF r.large THEN
                PERFORM @schema@.channels_pg_secrets_store_v1(v_slice, p_sender, p_base + r.ord, p_blobs[r.ord], p_ttl);
                CONTINUE;
            END IF;
            IF r.body LIKE '+%' THEN
                INSERT INTO @schema@.channels_pg_secrets_member AS m (prefix, grp, node, expires, foreign_adds)
                SELECT p_prefix, r.grp, n.id, clock_timestamp() + make_interval(secs => p_member_ttl), 1
                FROM @schema@.channels_pg_secrets_node n WHERE n.id = r.node
                ON CONFLICT (prefix, grp, node) DO UPDATE
                SET expires = greatest(m.expires, excluded.expires), foreign_adds = m.foreign_adds + 1;
            ELSE
                PERFORM FROM @schema@.channels_pg_secrets_node n WHERE n.id = r.node;
            END IF;
            IF NOT FOUND THEN
                v_refused := v_refused || r.ord::text;
            END IF;
        END LOOP;
        FOR r IN
            SELECT t.node, e.ord, e.body, left(e.body, 1) IN ('C', 'G') AS large
            FROM unnest(p_nodes, p_groups, p_channels, p_bodies)
                WITH ORDINALITY AS e (node, grp, channel, body, ord)
            CROSS JOIN LATERAL (
                SELECT e.node WHERE e.node IS NOT NULL
                UNION ALL
                SELECT m.node FROM @schema@.channels_pg_secrets_member m
                WHERE e.node IS NULL AND m.prefix = p_prefix AND m.grp = e.grp
                  AND m.node <> p_sender AND m.expires > clock_timestamp()
            ) t (node)
            WHERE e.channel IS NULL
            ORDER BY t.node, e.ord
        LOOP
            -- A large message's number is where its body lies, and who waits for that should hold up
            -- nothing before it: its frame is its own. What is kept under its own number goes under
            -- that, or catch_up would give it a second time.
            IF v_node = r.node AND NOT (v_young OR v_large OR r.large) AND length(v_body) + length(r.body) < c_limit THEN
                v_body := v_body || ',' || r.body;
            ELSE
                IF v_body IS NOT NULL THEN
                    PERFORM @schema@.channels_pg_secrets_emit_v1(v_slice, v_node, p_sender, v_seq, v_body, p_ttl);
                END IF;
                v_node := r.node;
                v_body := r.body;
                v_large := r.large;
            END IF;
            v_seq := p_base + r.ord;
        END LOOP;
        IF v_body IS NOT NULL THEN
            PERFORM @schema@.channels_pg_secrets_emit_v1(v_slice, v_node, p_sender, v_seq, v_body, p_ttl);
        END IF;
    END IF;

    IF NOT v_skip_queue THEN
        -- Normal channels, and those that are members of a group. In one order, as the sender's
        -- messages to a channel come both ways.
        FOR r IN
            SELECT e.ord, e.channel, e.capacity, e.body, true AS direct
            FROM unnest(p_channels, p_capacities, p_bodies)
                WITH ORDINALITY AS e (channel, capacity, body, ord)
            WHERE e.channel IS NOT NULL
            UNION ALL
            SELECT e.ord, m.channel, m.capacity, e.body, false
            FROM unnest(p_nodes, p_groups, p_bodies)
                WITH ORDINALITY AS e (node, grp, body, ord)
            JOIN @schema@.channels_pg_secrets_normal_member m ON m.prefix = p_prefix AND m.grp = e.grp
            WHERE e.node IS NULL AND e.grp IS NOT NULL AND m.expires > clock_timestamp()
            ORDER BY ord, channel
        LOOP
            IF NOT v_queues THEN
                IF NOT p_retry AND EXISTS (SELECT FROM @schema@.channels_pg_secrets_sent s
                                           WHERE s.sender = p_sender AND s.base >= p_base) THEN
                    EXIT;
                END IF;
                PERFORM set_config('synchronous_commit', 'on', true);
                v_queues := true;
            END IF;
            IF @schema@.channels_pg_secrets_enqueue_v1(
                p_prefix, r.channel, r.capacity, r.body, p_blobs[r.ord], p_queue_ttl)
            THEN
                IF r.channel <> ALL (v_woken) THEN
                    v_woken := v_woken || r.channel;
                END IF;
            ELSE
                v_refused := v_refused || CASE WHEN r.direct THEN r.ord::text ELSE r.ord || ':' || r.channel END;
            END IF;
        END LOOP;
    END IF;
    refused := concat_ws(',', nullif(refused, ''), nullif(array_to_string(v_refused, ','), ''));
    IF NOT v_skip_queue THEN
        PERFORM @schema@.channels_pg_secrets_wake_v1(p_prefix, v_woken);
        IF v_queues THEN
            INSERT INTO @schema@.channels_pg_secrets_sent AS s (sender, base, refused) VALUES (p_sender, p_base, refused)
            ON CONFLICT (sender) DO UPDATE SET base = excluded.base, refused = excluded.refused, at = excluded.at;
        END IF;
    END IF;
END $$;

-- Publishes what most batches are: one frame for one process, for the first time. The same as
-- publish does with it, but without arrays, and the sender has looked up the process's channel and
-- has sealed the frame: it is the message path. p_head is all that stands before the items. p_blob is
-- the body of a message that does not fit, of which p_body is the item.
-- Returns '' when done, the names of full channels where publish has status 2, and NULL where it has
-- status 1.
CREATE FUNCTION channels_pg_secrets_publish_frame_v1(
    p_sender bigint, p_incarnation bigint, p_seq bigint, p_node bigint, p_body text,
    p_channel text, p_head text, p_ttl double precision, p_blob bytea
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_slice smallint;
    v_refusing boolean;
    v_full text;
BEGIN
    -- No synchronous_commit here: a transaction that writes unlogged tables alone waits for no WAL.
    PERFORM pg_advisory_xact_lock(p_sender);
    SELECT s.slice, s.refusing INTO v_slice, v_refusing
    FROM @schema@.channels_pg_secrets_state s WHERE s.incarnation = p_incarnation;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF v_refusing THEN
        SELECT @schema@.channels_pg_secrets_overfull_v1(p_body, n.full_channels) INTO v_full
        FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node AND n.full_channels IS NOT NULL;
        IF v_full <> '' THEN
            RETURN v_full;
        END IF;
    END IF;
    IF v_slice = 0 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    ELSIF v_slice = 1 THEN
        INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    ELSE
        INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, expires, body)
        VALUES (p_node, p_sender, p_seq, clock_timestamp() + make_interval(secs => p_ttl), p_body);
    END IF;
    IF p_blob IS NOT NULL THEN
        PERFORM @schema@.channels_pg_secrets_store_v1(v_slice, p_sender, p_seq, p_blob, p_ttl);
    END IF;
    -- Not where the tables do not know the node: it would hear this and not what emit left as a row
    -- before, and drop that when it reads its rows.
    PERFORM pg_notify(p_channel, p_head || p_body) FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock_shared(7919, 2);  -- as in emit
        PERFORM pg_notify(p_channel, p_head || p_body) FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node;
    END IF;
    RETURN '';
END $$;

-- Publishes one message to a group, for the first time: what publish does with it, without arrays
-- and with the work of emit in place. p_blob is as with publish_frame. Returns what publish names as
-- refused, and NULL where that has status 1; channels of processes that are full drop it at their owner.
CREATE FUNCTION channels_pg_secrets_publish_group_v1(
    p_prefix text, p_sender bigint, p_incarnation bigint, p_base bigint, p_group text, p_body text,
    p_ttl double precision, p_queue_ttl double precision, p_blob bytea
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_slice smallint;
    v_young boolean;
    v_normal boolean;
    v_frame text := to_hex(p_sender) || ' ' || to_hex(p_base + 1) || ' ' || p_body;
    r record;
BEGIN
    PERFORM pg_advisory_xact_lock(p_sender);
    SELECT s.slice, s.created > clock_timestamp() - interval '60 seconds',
           EXISTS (SELECT FROM @schema@.channels_pg_secrets_normal_member m
                   WHERE m.prefix = p_prefix AND m.grp = p_group AND m.expires > clock_timestamp())
    INTO v_slice, v_young, v_normal
    FROM @schema@.channels_pg_secrets_state s WHERE s.incarnation = p_incarnation;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF v_normal THEN
        -- That is more than one notification each.
        RETURN (SELECT CASE p.status WHEN 0 THEN p.refused END FROM @schema@.channels_pg_secrets_publish_v1(
            p_prefix, p_sender, p_incarnation, p_base, false, p_ttl, p_queue_ttl, 0,
            ARRAY[NULL]::bigint[], ARRAY[p_group], ARRAY[NULL]::text[], ARRAY[NULL]::integer[],
            ARRAY[p_body], ARRAY[p_blob]) p);
    END IF;
    IF v_young THEN
        PERFORM @schema@.channels_pg_secrets_keep_v1(v_slice, p_prefix, p_sender, p_base + 1, p_body, p_ttl);
    END IF;
    FOR r IN
        SELECT m.node, n.channel, n.inner_pad, n.outer_pad
        FROM @schema@.channels_pg_secrets_member m LEFT JOIN @schema@.channels_pg_secrets_node n ON n.id = m.node
        WHERE m.prefix = p_prefix AND m.grp = p_group AND m.node <> p_sender AND m.expires > clock_timestamp()
        ORDER BY m.node
    LOOP
        IF v_slice = 0 THEN
            INSERT INTO @schema@.channels_pg_secrets_message_0 (node, sender, seq, expires, body)
            VALUES (r.node, p_sender, p_base + 1, clock_timestamp() + make_interval(secs => p_ttl), p_body);
        ELSIF v_slice = 1 THEN
            INSERT INTO @schema@.channels_pg_secrets_message_1 (node, sender, seq, expires, body)
            VALUES (r.node, p_sender, p_base + 1, clock_timestamp() + make_interval(secs => p_ttl), p_body);
        ELSE
            INSERT INTO @schema@.channels_pg_secrets_message_2 (node, sender, seq, expires, body)
            VALUES (r.node, p_sender, p_base + 1, clock_timestamp() + make_interval(secs => p_ttl), p_body);
        END IF;
        -- Who has not registered again after a crash finds the row when it has.
        CONTINUE WHEN r.channel IS NULL;
        PERFORM pg_notify(r.channel, encode(substr(sha256(
            r.outer_pad || sha256(r.inner_pad || convert_to(v_frame, 'UTF8'))), 1, 15), 'base64') || v_frame);
    END LOOP;
    IF p_blob IS NOT NULL THEN
        PERFORM @schema@.channels_pg_secrets_store_v1(v_slice, p_sender, p_base + 1, p_blob, p_ttl);
    END IF;
    RETURN '';
END $$;

-- Where and how to reach another process; no row: it is gone.
CREATE FUNCTION channels_pg_secrets_peer_v1(p_node bigint)
RETURNS TABLE (channel text, inner_pad bytea, outer_pad bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT n.channel, n.inner_pad, n.outer_pad FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node;
$$;

-- Enters a node, or finds it entered. Where "entry" is another than the node's last, its row is new, and its
-- members have to be written again.
CREATE FUNCTION channels_pg_secrets_register_v1(
    p_prefix text, p_node bigint, p_channel text, p_inner bytea, p_outer bytea, p_span double precision,
    p_entry bigint, OUT incarnation bigint, OUT entry bigint, OUT epoch bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO @schema@.channels_pg_secrets_state (incarnation)
    VALUES (('x' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 15))::bit(60)::bigint)
    ON CONFLICT DO NOTHING;
    UPDATE @schema@.channels_pg_secrets_node n SET seen = clock_timestamp() WHERE n.id = p_node
    RETURNING n.entry INTO entry;
    SELECT s.incarnation, coalesce(e.epoch, 0) INTO incarnation, epoch
    FROM @schema@.channels_pg_secrets_state s LEFT JOIN @schema@.channels_pg_secrets_epoch e ON e.prefix = p_prefix;
    IF entry IS NULL THEN
        INSERT INTO @schema@.channels_pg_secrets_node (id, prefix, channel, inner_pad, outer_pad, flushed, span, entry)
        VALUES (p_node, p_prefix, p_channel, p_inner, p_outer, epoch, p_span, p_entry);
        entry := p_entry;
    END IF;
END $$;

-- Gives a node that has written its memberships again what was sent to its groups before it had: as
-- rows, for it to read like all others.
CREATE FUNCTION channels_pg_secrets_catch_up_v1(p_prefix text, p_node bigint)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_slice smallint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- Waits for who has looked for the groups' members without seeing this node, and is not done. Not
    -- for long: a user's transaction that has sent to a group may go on for hours.
    BEGIN
        PERFORM set_config('lock_timeout', '2s', true);
        PERFORM pg_advisory_xact_lock(7919, 2);
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    SELECT s.slice INTO v_slice FROM @schema@.channels_pg_secrets_state s;
    PERFORM @schema@.channels_pg_secrets_copy_v1(v_slice, p_node, m.sender, m.seq, m.created, m.expires, m.body)
    FROM @schema@.channels_pg_secrets_message m
    WHERE m.node = -1 AND m.sender <> p_node AND m.blob = convert_to(p_prefix, 'UTF8') AND m.expires > clock_timestamp()
      AND EXISTS (SELECT FROM @schema@.channels_pg_secrets_member g
                  WHERE g.prefix = p_prefix AND g.node = p_node
                    AND g.grp = regexp_replace(split_part(m.body, ' ', 1), '^j?[gG]', ''));
END $$;

-- Leaves at once, where the process knows that it ends. What it sent last is known for an hour more
-- ("sent"): a batch in doubt, or its ghost, may come after this, and must not be queued once more.
CREATE FUNCTION channels_pg_secrets_deregister_v1(p_node bigint)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM @schema@.channels_pg_secrets_member WHERE node = p_node;
    DELETE FROM @schema@.channels_pg_secrets_reader WHERE node = p_node;
    DELETE FROM @schema@.channels_pg_secrets_queue WHERE claimed_by = p_node;
    DELETE FROM @schema@.channels_pg_secrets_node WHERE id = p_node;
$$;

-- Says "still here", learns what changed, and sweeps if nobody else is sweeping. No row: unknown.
CREATE FUNCTION channels_pg_secrets_heartbeat_v1(p_node bigint, p_stale double precision)
RETURNS TABLE (incarnation bigint, epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE @schema@.channels_pg_secrets_node n SET seen = clock_timestamp() WHERE n.id = p_node;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF pg_try_advisory_xact_lock(7919, 1) THEN
        BEGIN
            PERFORM @schema@.channels_pg_secrets_sweep_v1(p_stale);
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- the next heartbeat tries again
        END;
    END IF;
    RETURN QUERY SELECT s.incarnation, coalesce(e.epoch, 0)
    FROM @schema@.channels_pg_secrets_state s
    CROSS JOIN @schema@.channels_pg_secrets_node n LEFT JOIN @schema@.channels_pg_secrets_epoch e USING (prefix)
    WHERE n.id = p_node;
END $$;

-- What a node has not seen, page by page, in order per sender; with p_joins only what holds a join.
-- Goes from sender to sender, and reads of each only what is new: a process that moves to another
-- connection waits for this, and may have had much in the last minutes.
CREATE FUNCTION channels_pg_secrets_backlog_v1(
    p_node bigint, p_senders bigint[], p_marks bigint[],
    p_after_sender bigint, p_after_seq bigint, p_joins boolean, p_limit integer
) RETURNS TABLE (sender bigint, seq bigint, body text, age double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE heard (sender) AS (
        (SELECT m.sender FROM @schema@.channels_pg_secrets_message m
         WHERE m.node = p_node AND m.sender >= p_after_sender ORDER BY m.sender LIMIT 1)
        UNION ALL
        SELECT n.sender FROM heard h CROSS JOIN LATERAL (
            SELECT m.sender FROM @schema@.channels_pg_secrets_message m
            WHERE m.node = p_node AND m.sender > h.sender ORDER BY m.sender LIMIT 1) n
    )
    SELECT h.sender, m.seq, m.body, extract(epoch FROM clock_timestamp() - m.created)::double precision
    FROM heard h
    LEFT JOIN unnest(p_senders, p_marks) AS w (sender, mark) ON w.sender = h.sender
    CROSS JOIN LATERAL (
        SELECT m.seq, m.body, m.created FROM @schema@.channels_pg_secrets_message m
        WHERE m.node = p_node AND m.sender = h.sender
          AND m.seq > greatest(w.mark, CASE WHEN h.sender = p_after_sender THEN p_after_seq ELSE -1 END)
          AND m.expires > clock_timestamp() AND (NOT p_joins OR m.body ~ '(^|,)[+]')
        ORDER BY m.seq LIMIT p_limit
    ) m
    ORDER BY h.sender, m.seq
    LIMIT p_limit;
END $$;

-- The bodies of a sender's large messages, in the order of p_numbers; NULL for one that has expired. One
-- at least, and of the others as many as make p_bytes.
CREATE FUNCTION channels_pg_secrets_blobs_v1(p_sender bigint, p_numbers bigint[], p_bytes bigint)
RETURNS TABLE (number bigint, blob bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    -- Bodies are not looked at here: octet_length is that of the row in TOAST.
    FOR i IN 1 .. cardinality(p_numbers) LOOP
        number := p_numbers[i];
        SELECT m.blob INTO blob FROM @schema@.channels_pg_secrets_message m
        WHERE m.node = 0 AND m.sender = p_sender AND m.seq = number;
        p_bytes := p_bytes - coalesce(octet_length(blob), 0);
        EXIT WHEN p_bytes < 0 AND i > 1;
        RETURN NEXT;
    END LOOP;
END $$;

-- Writes the memberships that a node wants, each group as it should now be. channel '' is the node
-- itself, which counts its members' time and so may have rows that last longer; any other is a
-- normal channel, for which nobody counts. Status 1 as in publish; 2: a later statement was first.
CREATE FUNCTION channels_pg_secrets_members_v1(
    p_prefix text, p_node bigint, p_incarnation bigint, p_version bigint,
    p_ttl double precision, p_exact_ttl double precision, p_groups text[], p_channels text[], p_present boolean[], p_foreign integer[], p_capacities integer[],
    OUT status integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Normal channels are logged. Their commit must not wait for a standby: it holds the node's row.
    PERFORM set_config('synchronous_commit',
        CASE WHEN array_remove(p_channels, '') = '{}' THEN 'off' ELSE 'local' END, true);
    status := 1;
    UPDATE @schema@.channels_pg_secrets_node n SET written = greatest(n.written, p_version)
    FROM @schema@.channels_pg_secrets_state s WHERE s.incarnation = p_incarnation AND n.id = p_node
    RETURNING CASE WHEN n.written > p_version THEN 2 ELSE 0 END INTO status;
    IF NOT FOUND OR status <> 0 THEN
        status := coalesce(status, 1);
        RETURN;
    END IF;
    INSERT INTO @schema@.channels_pg_secrets_member AS m (prefix, grp, node, expires)
    SELECT p_prefix, e.grp, p_node, clock_timestamp() + make_interval(secs => p_ttl)
    FROM unnest(p_groups, p_channels, p_present) AS e (grp, channel, present)
    WHERE e.present AND e.channel = ''
    ORDER BY e.grp
    ON CONFLICT (prefix, grp, node) DO UPDATE SET expires = greatest(m.expires, excluded.expires);
    INSERT INTO @schema@.channels_pg_secrets_normal_member AS m (prefix, grp, channel, expires, capacity)
    SELECT p_prefix, e.grp, e.channel, clock_timestamp() + make_interval(secs => p_exact_ttl), e.capacity
    FROM unnest(p_groups, p_channels, p_present, p_capacities) AS e (grp, channel, present, capacity)
    WHERE e.present AND e.channel <> ''
    ORDER BY e.grp, e.channel
    ON CONFLICT (prefix, grp, channel) DO UPDATE
    SET expires = greatest(m.expires, excluded.expires), capacity = excluded.capacity;
    DELETE FROM @schema@.channels_pg_secrets_normal_member m
    USING unnest(p_groups, p_channels, p_present) AS gone (grp, channel, present)
    WHERE NOT gone.present AND m.prefix = p_prefix AND m.grp = gone.grp AND m.channel = gone.channel;
    -- A row with joins that the node has not heard of stays, less those that it has.
    WITH gone AS (
        SELECT e.grp, e.known
        FROM unnest(p_groups, p_channels, p_present, p_foreign) AS e (grp, channel, present, known)
        WHERE NOT e.present AND e.channel = ''
    ), deleted AS (
        DELETE FROM @schema@.channels_pg_secrets_member m USING gone
        WHERE m.prefix = p_prefix AND m.grp = gone.grp AND m.node = p_node AND m.foreign_adds <= gone.known
    )
    UPDATE @schema@.channels_pg_secrets_member m SET foreign_adds = greatest(m.foreign_adds - gone.known, 1)
    FROM gone
    WHERE m.prefix = p_prefix AND m.grp = gone.grp AND m.node = p_node AND m.foreign_adds > gone.known;
    status := 0;
END $$;

-- Writes which channels of a node are full, whatever was written before; a ghost of an earlier
-- statement comes too late. Status 1 as in publish.
CREATE FUNCTION channels_pg_secrets_full_v1(
    p_node bigint, p_incarnation bigint, p_version bigint, p_channels text[], OUT status integer
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE @schema@.channels_pg_secrets_node n
    SET full_channels = nullif(p_channels, '{}'), full_version = p_version
    FROM @schema@.channels_pg_secrets_state s
    WHERE s.incarnation = p_incarnation AND n.id = p_node AND n.full_version < p_version;
    status := CASE WHEN FOUND THEN 0 ELSE 1 END;
    -- The mark that somebody refuses is set here, and taken away by the next sweep: each change leaves
    -- a version of the row that all who send have to pass.
    IF p_channels <> '{}' THEN
        -- Locked until the end, or a sweep would not see what is written above. And not for long: all
        -- that the caller sends waits behind it, and somebody's sweep may take a while.
        PERFORM set_config('lock_timeout', '50ms', true);
        PERFORM FROM @schema@.channels_pg_secrets_state FOR UPDATE;
        UPDATE @schema@.channels_pg_secrets_state SET refusing = true WHERE NOT refusing;
    END IF;
END $$;

-- Registers a node as reader of a normal channel. Waits for senders in flight (see enqueue), so
-- that whatever was sent before is found by the claim that follows, and the rest is announced.
CREATE FUNCTION channels_pg_secrets_read_v1(p_prefix text, p_node bigint, p_channel text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    -- Not for long: a user's transaction that sent here holds it until its end, and whoever sends
    -- queues up behind us. What it sent is then found by the look that comes with a heartbeat.
    BEGIN
        PERFORM set_config('lock_timeout', '200ms', true);
        PERFORM pg_advisory_xact_lock(hashtextextended(p_prefix || ':' || p_channel, 7919));
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    INSERT INTO @schema@.channels_pg_secrets_reader (prefix, channel, node)
    SELECT p_prefix, p_channel, n.id FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node
    ON CONFLICT DO NOTHING;
END $$;

-- Takes up to p_count messages of a normal channel for receivers that are waiting, after it has
-- deleted what was handed over before: a reader who is busy needs one statement for each message.
-- Each turn takes the first one that is visible by then. To go on behind the last one instead would
-- turn a sender's order round: of two that become visible between two turns it may have passed one.
CREATE FUNCTION channels_pg_secrets_claim_v1(
    p_prefix text, p_node bigint, p_channel text, p_claim bigint, p_count integer,
    p_done bigint[], p_done_claims bigint[]
) RETURNS TABLE (id bigint, body text, blob bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    -- A ghost, whose node has another connection since, must not take what that is about to claim: the
    -- node would find it late, after its successors (see claims).
    PERFORM pg_advisory_xact_lock_shared(~p_node);
    IF p_claim < (SELECT n.claims_from FROM @schema@.channels_pg_secrets_node n WHERE n.id = p_node) THEN
        RETURN;
    END IF;
    PERFORM @schema@.channels_pg_secrets_delete_v1(p_node, p_done, p_done_claims);
    FOR i IN 1 .. p_count LOOP
        SELECT q.id, q.body, q.blob INTO id, body, blob FROM @schema@.channels_pg_secrets_queue q
        WHERE q.prefix = p_prefix AND q.channel = p_channel AND q.claimed_by IS NULL
          AND q.expires > clock_timestamp()
        ORDER BY q.id LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            IF i = 1 THEN
                PERFORM set_config('synchronous_commit', 'off', true);  -- as in settle
            END IF;
            RETURN;
        END IF;
        UPDATE @schema@.channels_pg_secrets_queue q SET claimed_by = p_node, claim = p_claim
        WHERE q.prefix = p_prefix AND q.channel = p_channel AND q.id = channels_pg_secrets_claim_v1.id;
        RETURN NEXT;
    END LOOP;
END $$;

-- What a node has claimed, to find claims whose reply was lost. Those before the number p_from that
-- have not been carried out yet will not be: one that is being carried out is waited for.
CREATE FUNCTION channels_pg_secrets_claims_v1(p_node bigint, p_from bigint)
RETURNS TABLE (id bigint, channel text, claim bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM set_config('lock_timeout', '200ms', true);  -- all that the node sends waits behind it
    PERFORM pg_advisory_xact_lock(~p_node);
    UPDATE @schema@.channels_pg_secrets_node n SET claims_from = p_from
    WHERE n.id = p_node AND n.claims_from < p_from;
    RETURN QUERY SELECT q.id, q.channel, q.claim FROM @schema@.channels_pg_secrets_queue q
    WHERE q.claimed_by = p_node;
END $$;

-- Deletes what was handed over, gives back what was not, and takes the node's name off the channels
-- that it does not read any more.
CREATE FUNCTION channels_pg_secrets_settle_v1(
    p_node bigint, p_done bigint[], p_done_claims bigint[], p_back bigint[], p_back_claims bigint[],
    p_idle text[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
DECLARE
    r record;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM @schema@.channels_pg_secrets_delete_v1(p_node, p_done, p_done_claims);
    DELETE FROM @schema@.channels_pg_secrets_reader t WHERE t.node = p_node AND t.channel = ANY (p_idle);
    FOR r IN
        WITH freed AS (
            UPDATE @schema@.channels_pg_secrets_queue q SET claimed_by = NULL, claim = NULL
            FROM unnest(p_back, p_back_claims) AS b (id, claim)
            WHERE q.id = b.id AND q.claimed_by = p_node AND q.claim = b.claim
            RETURNING q.prefix, q.channel
        ) SELECT freed.prefix, array_agg(DISTINCT freed.channel) AS channels FROM freed GROUP BY freed.prefix
    LOOP
        PERFORM @schema@.channels_pg_secrets_wake_v1(r.prefix, r.channels);
    END LOOP;
END $$;

-- Empties a layer: starts a new epoch, and tells every node. A call that comes again, or as the
-- ghost of one that was made again, has the same random p_id and empties nothing a second time.
CREATE FUNCTION channels_pg_secrets_flush_v1(p_prefix text, p_id bigint, OUT epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_nodes bigint[];
    v_epoch bigint;
BEGIN
    INSERT INTO @schema@.channels_pg_secrets_epoch AS e (prefix, epoch, flush) VALUES (p_prefix, 1, p_id)
    ON CONFLICT (prefix) DO UPDATE SET epoch = e.epoch + 1, flush = excluded.flush WHERE e.flush <> p_id
    RETURNING e.epoch INTO v_epoch;
    IF NOT FOUND THEN
        SELECT e.epoch INTO epoch FROM @schema@.channels_pg_secrets_epoch e WHERE e.prefix = p_prefix;
        RETURN;
    END IF;
    SELECT coalesce(array_agg(n.id), '{}') INTO v_nodes FROM @schema@.channels_pg_secrets_node n WHERE n.prefix = p_prefix;
    DELETE FROM @schema@.channels_pg_secrets_queue q WHERE q.prefix = p_prefix;
    DELETE FROM @schema@.channels_pg_secrets_member m WHERE m.prefix = p_prefix;
    DELETE FROM @schema@.channels_pg_secrets_normal_member m WHERE m.prefix = p_prefix;
    DELETE FROM @schema@.channels_pg_secrets_message_0 m
    WHERE m.node = ANY (v_nodes) OR (m.node <= 0 AND m.sender = ANY (v_nodes));
    DELETE FROM @schema@.channels_pg_secrets_message_1 m
    WHERE m.node = ANY (v_nodes) OR (m.node <= 0 AND m.sender = ANY (v_nodes));
    DELETE FROM @schema@.channels_pg_secrets_message_2 m
    WHERE m.node = ANY (v_nodes) OR (m.node <= 0 AND m.sender = ANY (v_nodes));
    PERFORM @schema@.channels_pg_secrets_emit_v1(3::smallint, u.node, 0::bigint, 0::bigint, 'f' || v_epoch, 0::double precision) FROM unnest(v_nodes) AS u (node);
    epoch := v_epoch;
END $$;

-- Asks the other live processes of a layer something (see inquiry.py), and returns which they are.
-- Neither numbered nor kept: whoever asks does so again.
CREATE FUNCTION channels_pg_secrets_ask_v1(
    p_prefix text, p_node bigint, p_question text, p_token text, p_stale double precision
) RETURNS TABLE (node bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF p_question !~ '^[a-z]{1,20}$' OR p_token !~ '^[0-9a-f]{1,32}$' THEN
        RAISE EXCEPTION 'not a valid question' USING ERRCODE = '22023';
    END IF;
    FOR node IN
        SELECT n.id FROM @schema@.channels_pg_secrets_node n
        WHERE n.prefix = p_prefix AND n.id <> p_node
          AND n.seen > clock_timestamp() - make_interval(secs => p_stale)
    LOOP
        PERFORM @schema@.channels_pg_secrets_emit_v1(3::smallint, node, 0::bigint, 0::bigint,
            '?' || p_question || ' ' || to_hex(p_node) || ' ' || p_token, 0::double precision);
        RETURN NEXT;
    END LOOP;
END $$;

-- A node reports that it has emptied itself.
CREATE FUNCTION channels_pg_secrets_flushed_v1(p_node bigint, p_epoch bigint)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE @schema@.channels_pg_secrets_node SET flushed = greatest(flushed, p_epoch) WHERE id = p_node;
END $$;

-- How many live nodes have not.
CREATE FUNCTION channels_pg_secrets_unflushed_v1(p_prefix text, p_epoch bigint, p_stale double precision)
RETURNS TABLE (nodes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*) FROM @schema@.channels_pg_secrets_node n
    WHERE n.prefix = p_prefix AND n.flushed < p_epoch
      AND n.seen > clock_timestamp() - make_interval(secs => p_stale);
$$;

-- Sends from SQL: a trigger, a user's own transaction, another language. The message is delivered
-- when the transaction commits, and not at all if it does not. Such a sender has no ordered stream,
-- so its frames carry the sender 0 and a random number.
CREATE FUNCTION channels_pg_secrets_send_v1(
    p_channel text, p_message jsonb, p_prefix text DEFAULT 'asgi', p_expiry double precision DEFAULT 60,
    p_capacity integer DEFAULT 100
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_node text := substring(p_channel FROM '\.([0-9a-f]{16})!');
    v_bytes bytea := convert_to(p_message::text, 'UTF8');
    v_item text := 'jc' || p_channel || ' ' || translate(encode(v_bytes, 'base64'), E'\n', '');
BEGIN
    PERFORM @schema@.channels_pg_secrets_check_v1(p_channel, p_message);
    IF v_node IS NOT NULL THEN
        PERFORM @schema@.channels_pg_secrets_scatter_v1(
            ARRAY[('x' || v_node)::bit(64)::bigint], v_item, 'jC' || p_channel, v_bytes, p_expiry, NULL);
    ELSE
        IF length(v_item) < 7900 THEN
            v_bytes := NULL;
        ELSE
            v_item := 'jC' || p_channel;
        END IF;
        IF NOT @schema@.channels_pg_secrets_enqueue_v1(p_prefix, p_channel, p_capacity, v_item, v_bytes, p_expiry) THEN
            RAISE EXCEPTION 'channel % is at its capacity of %', p_channel, p_capacity USING ERRCODE = '53400';
        END IF;
        PERFORM @schema@.channels_pg_secrets_wake_v1(p_prefix, ARRAY[p_channel]);
    END IF;
END $$;

CREATE FUNCTION channels_pg_secrets_group_send_v1(
    p_group text, p_message jsonb, p_prefix text DEFAULT 'asgi', p_expiry double precision DEFAULT 60
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_bytes bytea := convert_to(p_message::text, 'UTF8');
    v_item text := 'jg' || p_group || ' ' || translate(encode(v_bytes, 'base64'), E'\n', '');
    v_woken text[] := '{}';
    r record;
BEGIN
    PERFORM @schema@.channels_pg_secrets_check_v1(p_group, p_message);
    IF position('!' IN p_group) > 0 THEN
        RAISE EXCEPTION 'not a valid channel or group name: %', p_group USING ERRCODE = '22023';
    END IF;
    PERFORM @schema@.channels_pg_secrets_scatter_v1(
        (SELECT array_agg(m.node) FROM @schema@.channels_pg_secrets_member m
         WHERE m.prefix = p_prefix AND m.grp = p_group AND m.expires > clock_timestamp()),
        v_item, 'jG' || p_group, v_bytes, p_expiry, p_prefix);
    IF length(v_item) < 7900 THEN
        v_bytes := NULL;
    ELSE
        v_item := 'jG' || p_group;
    END IF;
    FOR r IN
        SELECT m.channel, m.capacity FROM @schema@.channels_pg_secrets_normal_member m
        WHERE m.prefix = p_prefix AND m.grp = p_group AND m.expires > clock_timestamp()
        ORDER BY m.channel
    LOOP
        IF @schema@.channels_pg_secrets_enqueue_v1(p_prefix, r.channel, r.capacity, v_item, v_bytes, p_expiry) THEN
            v_woken := v_woken || r.channel;
        END IF;
    END LOOP;
    PERFORM @schema@.channels_pg_secrets_wake_v1(p_prefix, v_woken);
END $$;
