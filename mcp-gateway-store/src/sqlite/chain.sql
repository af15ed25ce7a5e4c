-- What the chain knows of each row, in the order of its stream. Rows from before this version have none.
CREATE TABLE link (
    stream BLOB NOT NULL,
    seq INTEGER NOT NULL,
    ts INTEGER NOT NULL,            -- of the row
    digest BLOB NOT NULL,
    bodies BLOB,                    -- the commitment to captured bodies
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoint (
    stream BLOB NOT NULL,
    seq INTEGER NOT NULL,
    newest INTEGER NOT NULL,        -- the latest time of the rows that it covers
    signed TEXT NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;
