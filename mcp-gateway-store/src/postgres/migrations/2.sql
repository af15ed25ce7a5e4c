-- What the chain knows of each row of the audit trail, in the order of its stream. Rows from before this version, and of
-- programs of the version before, have none.
CREATE TABLE mcp_gateway.link (
    stream uuid NOT NULL,
    seq bigint NOT NULL,
    -- Of the row.
    ts timestamptz NOT NULL,
    digest bytea NOT NULL,
    -- The commitment to captured bodies.
    bodies bytea,
    PRIMARY KEY (stream, seq)
);

CREATE TABLE mcp_gateway.checkpoint (
    stream uuid NOT NULL,
    seq bigint NOT NULL,
    -- The latest time of the rows that it covers.
    newest timestamptz NOT NULL,
    signed text NOT NULL,
    PRIMARY KEY (stream, seq)
);

-- Removes the links up to the last checkpoint of which all rows are gone, the checkpoints before it, and all marks but the
-- first and the last.
CREATE FUNCTION mcp_gateway.prune_chain(before timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    -- Whole days were removed: what is left of the last one has its links.
    upto timestamptz := least(before, (SELECT min(e.ts) FROM mcp_gateway.event e));
    marks uuid := '00000000-0000-0000-0000-000000000000';
    removed bigint;
BEGIN
    WITH anchor AS (
        SELECT c.stream, max(c.seq) AS seq FROM mcp_gateway.checkpoint c
        WHERE c.newest < upto AND c.stream <> marks GROUP BY c.stream
    ), older AS (
        DELETE FROM mcp_gateway.checkpoint c USING anchor a WHERE c.stream = a.stream AND c.seq < a.seq
    ), gone AS (
        DELETE FROM mcp_gateway.link l USING anchor a WHERE l.stream = a.stream AND l.seq <= a.seq RETURNING 1
    )
    SELECT count(*) INTO removed FROM gone;
    DELETE FROM mcp_gateway.checkpoint c
    WHERE c.stream = marks AND c.seq > 0
        AND c.seq < (SELECT max(m.seq) FROM mcp_gateway.checkpoint m WHERE m.stream = marks);
    RETURN removed;
END $$;
