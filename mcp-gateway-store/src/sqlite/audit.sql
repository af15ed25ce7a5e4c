-- Newest rows are at the end of the tree, so appends touch its last pages only.
CREATE TABLE event (
    ts INTEGER NOT NULL,            -- microseconds since 1970
    stream BLOB NOT NULL,           -- the writer's life, a ULID
    seq INTEGER NOT NULL,           -- from 1 in each stream
    request_id BLOB NOT NULL,       -- a ULID
    category TEXT NOT NULL,
    kind TEXT NOT NULL,
    tenant TEXT,
    issuer TEXT,
    subject TEXT,
    actor TEXT,
    server TEXT,
    method TEXT,
    target TEXT,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    total_us INTEGER NOT NULL,
    trace_id TEXT,
    detail BLOB NOT NULL,           -- everything else: see audit_detail.rs
    PRIMARY KEY (ts, stream, seq)
) STRICT, WITHOUT ROWID;

-- The seconds in which a server or a subject has rows. An index of every row would cost as much as the row; a reader
-- goes from second to second and filters within.
CREATE TABLE presence (
    what TEXT NOT NULL,             -- server, subject
    name TEXT NOT NULL,
    second INTEGER NOT NULL,        -- since 1970
    PRIMARY KEY (what, name, second)
) STRICT, WITHOUT ROWID;

-- Captured bodies, sealed: apart, so that lists and counts never read over them.
CREATE TABLE body (
    ts INTEGER NOT NULL,
    stream BLOB NOT NULL,
    seq INTEGER NOT NULL,
    sealed TEXT NOT NULL,
    PRIMARY KEY (ts, stream, seq)
) STRICT, WITHOUT ROWID;
