-- How far this store has followed the topics that the instances of a cluster share (src/monitor/cluster).
CREATE TABLE followed (
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;

-- The cluster this store belongs to, by the digest of what its log begins with, and who judges as of the log so far.
CREATE TABLE cluster (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    founding TEXT NOT NULL,
    epoch    INTEGER NOT NULL,
    judge    TEXT NOT NULL
) STRICT;
