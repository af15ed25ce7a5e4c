-- Everything is in the schema mcp_gateway. Functions are called by programs of this schema version and of the one before:
-- one that changes its arguments or meaning gets another name.
--
-- Advisory locks have the class 1835233383 ('mcpg') and the number
--    0     of commits of logged kinds: held from before the revision is drawn until it is visible
--    1...  of keys, by hash: held by a commit for every key that it names
--   -1     of migrations
--   -2     of the sweep
--   -3     of making and dropping partitions
--   -4     shared: a server uses this database; exclusive: it is being filled

-- ---- records --------------------------------------------------------------------------------------------------------

CREATE TABLE mcp_gateway.state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The last commit in the change log.
    logged bigint NOT NULL,
    -- The change log holds everything after this revision.
    compacted bigint NOT NULL,
    -- A copy from another store has begun and is not complete.
    filling boolean NOT NULL DEFAULT false
) WITH (fillfactor = 20);
INSERT INTO mcp_gateway.state (logged, compacted) VALUES (0, 0);

-- Drawn outside of transactions, so that commits of quiet kinds do not wait for one another.
CREATE SEQUENCE mcp_gateway.revision AS bigint MINVALUE 0 START 0;
SELECT setval('mcp_gateway.revision', 0);

-- One row, which a crash, a failover or a restore takes away: what a sequence has handed out may then come again.
CREATE UNLOGGED TABLE mcp_gateway.life (
    one boolean PRIMARY KEY DEFAULT true CHECK (one)
);
INSERT INTO mcp_gateway.life DEFAULT VALUES;

-- Text is compared byte by byte. U+0000, which text cannot hold, is written as U+0001 '0', and U+0001 as U+0001 '1':
-- the order stays.
CREATE TABLE mcp_gateway.record (
    kind text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    -- Microseconds since 1970 on this server's clock; NULL for never.
    expires_at bigint,
    value bytea NOT NULL,
    PRIMARY KEY (kind, tenant, id)
) WITH (fillfactor = 90);
CREATE INDEX record_by_expiry ON mcp_gateway.record (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE mcp_gateway.term (
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, name, value, tenant, id)
);
CREATE INDEX term_by_record ON mcp_gateway.term (kind, tenant, id);

CREATE TABLE mcp_gateway.change (
    revision bigint NOT NULL,
    -- In the batch.
    place smallint NOT NULL,
    -- When, microseconds since 1970.
    at bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    -- NULL for a delete.
    value bytea,
    PRIMARY KEY (revision, place)
);

-- Microseconds since 1970.
CREATE FUNCTION mcp_gateway.now_us() RETURNS bigint LANGUAGE sql VOLATILE
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- After a crash: revisions go on far above any that was ever drawn, and no consumer of the feed may go on where it was.
CREATE FUNCTION mcp_gateway.begin_life() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1835233383, 0);
    IF EXISTS (SELECT FROM mcp_gateway.life) THEN
        RETURN;
    END IF;
    SELECT setval('mcp_gateway.revision', r.last_value + 1048576) INTO newest FROM mcp_gateway.revision r;
    UPDATE mcp_gateway.state SET logged = newest, compacted = newest;
    INSERT INTO mcp_gateway.life DEFAULT VALUES;
END $$;

-- A revision up to which everything in the change log is visible to whoever reads it next.
CREATE FUNCTION mcp_gateway.revision_now() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mcp_gateway.life) THEN
        PERFORM mcp_gateway.begin_life();
    END IF;
    IF pg_try_advisory_xact_lock_shared(1835233383, 0) THEN
        -- No logged commit is under way: whatever was drawn is visible, or of quiet kinds.
        SELECT last_value INTO newest FROM mcp_gateway.revision;
    ELSE
        SELECT logged INTO newest FROM mcp_gateway.state;
    END IF;
    RETURN newest;
END $$;

-- Writes a batch. The arrays have an element for each write.
--   ops: 0 put, 1 delete, 2 check. conditions: NULL any, -1 absent, else the revision. ttls: microseconds or NULL.
--   terms: the 1-based number of a put, name and value.
-- Returns the revision, or the 1-based number of the first write whose condition does not hold, with the revision that
-- its record has.
CREATE FUNCTION mcp_gateway.commit_batch(
    kinds text[], tenants text[], ids text[], ops smallint[], conditions bigint[], contents bytea[], ttls bigint[],
    log boolean[], term_of integer[], term_names text[], term_values text[], log_commits bigint,
    OUT committed bigint, OUT conflict integer, OUT current bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    -- Of a write to a logged kind; a check writes nothing.
    logged boolean := EXISTS (SELECT FROM unnest(log, ops) w(log, op) WHERE w.log AND w.op <> 2);
    now bigint;
    slot integer;
    changes integer := 0;
    bound bigint;
    held bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM mcp_gateway.life) THEN
        PERFORM mcp_gateway.begin_life();
    END IF;
    IF logged THEN
        PERFORM pg_advisory_xact_lock(1835233383, 0);
    END IF;
    -- In one order, so that no two commits wait for each other.
    FOR slot IN
        SELECT DISTINCT (hashtextextended(w.kind || '/' || w.tenant || '/' || w.id, 0) & 1023)::integer + 1
        FROM unnest(kinds, tenants, ids) w(kind, tenant, id) ORDER BY 1
    LOOP
        PERFORM pg_advisory_xact_lock(1835233383, slot);
    END LOOP;
    -- From here on nobody else writes these records.
    now := mcp_gateway.now_us();
    SELECT w.n, r.revision INTO conflict, current
    FROM unnest(kinds, tenants, ids, conditions) WITH ORDINALITY w(kind, tenant, id, condition, n)
    LEFT JOIN mcp_gateway.record r ON r.kind = w.kind AND r.tenant = w.tenant AND r.id = w.id
        AND (r.expires_at IS NULL OR r.expires_at > now)
    WHERE w.condition IS NOT NULL
        AND CASE w.condition WHEN -1 THEN r.revision IS NOT NULL ELSE r.revision IS DISTINCT FROM w.condition END
    ORDER BY w.n LIMIT 1;
    IF conflict IS NOT NULL THEN
        RETURN;
    END IF;
    IF NOT ops && '{0,1}'::smallint[] THEN
        committed := mcp_gateway.revision_now();
        RETURN;
    END IF;

    committed := nextval('mcp_gateway.revision');
    INSERT INTO mcp_gateway.record AS r (kind, tenant, id, revision, expires_at, value)
    SELECT w.kind, w.tenant, w.id, committed, now + w.ttl, w.content
    FROM unnest(kinds, tenants, ids, ops, contents, ttls) w(kind, tenant, id, op, content, ttl)
    WHERE w.op = 0
    ON CONFLICT ON CONSTRAINT record_pkey
    DO UPDATE SET revision = excluded.revision, expires_at = excluded.expires_at, value = excluded.value;
    DELETE FROM mcp_gateway.term t USING unnest(kinds, tenants, ids, ops) w(kind, tenant, id, op)
    WHERE w.op <> 2 AND t.kind = w.kind AND t.tenant = w.tenant AND t.id = w.id;
    IF cardinality(term_of) > 0 THEN
        INSERT INTO mcp_gateway.term (kind, name, value, tenant, id)
        SELECT DISTINCT kinds[t.n], t.name, t.value, tenants[t.n], ids[t.n]
        FROM unnest(term_of, term_names, term_values) t(n, name, value);
    END IF;
    WITH gone AS (
        DELETE FROM mcp_gateway.record r
        USING unnest(kinds, tenants, ids, ops) WITH ORDINALITY w(kind, tenant, id, op, n)
        WHERE w.op = 1 AND r.kind = w.kind AND r.tenant = w.tenant AND r.id = w.id
        -- Removing what has expired is no change.
        RETURNING w.n, r.expires_at IS NULL OR r.expires_at > now AS alive
    )
    INSERT INTO mcp_gateway.change (revision, place, at, kind, tenant, id, value)
    SELECT committed, w.n, now, w.kind, w.tenant, w.id, CASE w.op WHEN 0 THEN w.content END
    FROM unnest(kinds, tenants, ids, ops, log, contents) WITH ORDINALITY w(kind, tenant, id, op, log, content, n)
    WHERE w.log AND (w.op = 0 OR w.op = 1 AND w.n IN (SELECT g.n FROM gone g WHERE g.alive));
    GET DIAGNOSTICS changes = ROW_COUNT;
    IF changes = 0 THEN
        RETURN;
    END IF;

    UPDATE mcp_gateway.state s SET logged = committed RETURNING s.compacted INTO held;
    bound := committed - log_commits;
    -- Not after every commit when the log is long, and never much at once.
    IF bound >= held + greatest(least(log_commits / 64, 256), 1) THEN
        bound := least(bound, held + 1024);
        DELETE FROM mcp_gateway.change c WHERE c.revision <= bound;
        UPDATE mcp_gateway.state s SET compacted = greatest(s.compacted, bound);
    END IF;
    PERFORM pg_notify('mcp_gateway', committed::text);
END $$;

-- Reads the change log after a revision: whole commits, until about so many rows or bytes are read. The last row has no
-- revision; it says up to where the log is forgotten, how far revisions have come, and whether there was more.
CREATE FUNCTION mcp_gateway.read_changes(kinds text[], after bigint, max_rows integer, max_bytes bigint)
RETURNS TABLE (revision bigint, kind text, tenant text, id text, value bytea, compacted bigint, newest bigint, more boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    rows_read integer := 0;
    bytes_read bigint := 0;
    last bigint := after;
    c record;
BEGIN
    more := false;
    FOR c IN
        SELECT l.revision, l.kind, l.tenant, l.id, l.value FROM mcp_gateway.change l
        WHERE l.revision > after AND l.kind = ANY (kinds) ORDER BY l.revision, l.place
    LOOP
        IF c.revision > last AND (rows_read >= max_rows OR bytes_read >= max_bytes) THEN
            more := true;
            EXIT;
        END IF;
        last := c.revision;
        rows_read := rows_read + 1;
        bytes_read := bytes_read + coalesce(octet_length(c.value), 0);
        RETURN QUERY SELECT c.revision, c.kind, c.tenant, c.id, c.value, NULL::bigint, NULL::bigint, NULL::boolean;
    END LOOP;
    -- After the rows: nothing that they should have held was forgotten before this.
    RETURN QUERY
    SELECT NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::bytea, s.compacted, r.last_value, read_changes.more
    FROM mcp_gateway.state s, mcp_gateway.revision r;
END $$;

-- Removes expired records and old changes, some at a time; says whether there may be more.
CREATE FUNCTION mcp_gateway.sweep(max_rows integer, log_age bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now bigint := mcp_gateway.now_us();
    removed integer;
    old bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1835233383, -2) THEN
        RETURN false;
    END IF;
    WITH dead AS MATERIALIZED (
        SELECT r.kind, r.tenant, r.id FROM mcp_gateway.record r WHERE r.expires_at <= now
        -- What is being written is not dead.
        ORDER BY r.expires_at LIMIT max_rows FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM mcp_gateway.record r USING dead d
        WHERE r.kind = d.kind AND r.tenant = d.tenant AND r.id = d.id RETURNING r.kind, r.tenant, r.id
    ), unlisted AS (
        DELETE FROM mcp_gateway.term t USING dead d WHERE t.kind = d.kind AND t.tenant = d.tenant AND t.id = d.id
    )
    SELECT count(*) INTO removed FROM gone;
    SELECT max(c.revision) INTO old
    FROM (SELECT l.revision, l.at FROM mcp_gateway.change l ORDER BY l.revision, l.place LIMIT max_rows) c
    WHERE c.at < now - log_age;
    IF old IS NOT NULL THEN
        UPDATE mcp_gateway.state SET compacted = greatest(compacted, old);
        DELETE FROM mcp_gateway.change c WHERE c.revision <= old;
    END IF;
    RETURN removed = max_rows OR old IS NOT NULL;
END $$;

-- ---- audit trail ----------------------------------------------------------------------------------------------------

-- A partition for each day, UTC: event_20261121, body_20261121.
CREATE TABLE mcp_gateway.event (
    ts timestamptz NOT NULL,
    -- The writer's life, a ULID.
    stream uuid NOT NULL,
    -- From 1 in each stream.
    seq bigint NOT NULL,
    -- A ULID.
    request_id uuid NOT NULL,
    category text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    tenant text COLLATE "C",
    issuer text COLLATE "C",
    subject text COLLATE "C",
    actor text COLLATE "C",
    server text COLLATE "C",
    method text COLLATE "C",
    target text COLLATE "C",
    outcome text COLLATE "C" NOT NULL,
    status integer NOT NULL,
    total_us bigint NOT NULL,
    trace_id text COLLATE "C",
    -- Everything else, as JSON.
    detail text NOT NULL,
    PRIMARY KEY (ts, stream, seq)
) PARTITION BY RANGE (ts);
CREATE INDEX event_server ON mcp_gateway.event (server, ts);
CREATE INDEX event_subject ON mcp_gateway.event (subject, ts);

-- Captured bodies, sealed: apart, so that lists and counts never read over them.
CREATE TABLE mcp_gateway.body (
    ts timestamptz NOT NULL,
    stream uuid NOT NULL,
    seq bigint NOT NULL,
    sealed text NOT NULL,
    PRIMARY KEY (ts, stream, seq)
) PARTITION BY RANGE (ts);

-- Makes the partitions of a day. They are made alone and then attached, so that neither readers nor writers wait.
CREATE FUNCTION mcp_gateway.make_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    partition text;
BEGIN
    PERFORM pg_advisory_xact_lock(1835233383, -3);
    FOREACH parent IN ARRAY '{event,body}'::text[] LOOP
        partition := parent || '_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('mcp_gateway.' || partition) IS NULL THEN
            EXECUTE format('CREATE TABLE mcp_gateway.%I (LIKE mcp_gateway.%I INCLUDING ALL)', partition, parent);
            EXECUTE format(
                'ALTER TABLE mcp_gateway.%I ATTACH PARTITION mcp_gateway.%I FOR VALUES FROM (%L) TO (%L)',
                parent, partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'
            );
        END IF;
    END LOOP;
END $$;

-- The days that are over before a time, and for so many microseconds on this server's clock: a client whose clock is wrong
-- removes nothing.
CREATE FUNCTION mcp_gateway.old_days(before timestamptz, keep bigint) RETURNS SETOF date LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT d.day
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, LATERAL (SELECT to_date(substr(c.relname, 7), 'YYYYMMDD') AS day) d
    WHERE i.inhparent = 'mcp_gateway.event'::regclass AND c.relname ~ '^event_[0-9]{8}$'
        AND extract(epoch FROM (d.day + 1)::timestamp) * 1000000
            <= least(extract(epoch FROM before) * 1000000, mcp_gateway.now_us() - keep)
    ORDER BY 1;
END;

-- Removes a day with its partitions, in a transaction of its own: until its end nobody appends. Says how many events;
-- NULL when somebody else makes or removes days.
CREATE FUNCTION mcp_gateway.drop_day(day date) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    events text := 'event_' || to_char(day, 'YYYYMMDD');
    bodies text := 'body_' || to_char(day, 'YYYYMMDD');
    removed bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1835233383, -3) THEN
        RETURN NULL;
    END IF;
    IF to_regclass('mcp_gateway.' || events) IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE format('SELECT count(*) FROM mcp_gateway.%I', events) INTO removed;
    -- Readers of the day are waited for before the parents are locked.
    EXECUTE format('LOCK TABLE mcp_gateway.%I, mcp_gateway.%I', events, bodies);
    EXECUTE format('DROP TABLE mcp_gateway.%I, mcp_gateway.%I', events, bodies);
    RETURN removed;
END $$;
