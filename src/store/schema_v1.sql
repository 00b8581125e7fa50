-- Times are milliseconds since 1970 UTC. Blobs are zstd frames with a checksum (src/store/codec.rs).

-- A stretch of history counted in one way: fingerprint, window, segments, unit, ...
CREATE TABLE lineages (
    id            INTEGER PRIMARY KEY,
    counting_hash TEXT NOT NULL,
    description   TEXT NOT NULL,
    began_ms      INTEGER NOT NULL
) STRICT;

-- Where each partition goes on; rejected = since its last window closed, JSON.
CREATE TABLE positions (
    lineage       INTEGER NOT NULL REFERENCES lineages (id),
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    next_offset   INTEGER NOT NULL,
    replay_offset INTEGER NOT NULL,
    watermark_ms  INTEGER NOT NULL,
    n_late        INTEGER NOT NULL,
    rejected      TEXT NOT NULL,
    PRIMARY KEY (lineage, topic, partition)
) STRICT, WITHOUT ROWID;

-- Segments admitted beside the configured ones, for windows that start at or after from_ms.
CREATE TABLE admitted_segments (
    lineage INTEGER NOT NULL REFERENCES lineages (id),
    segment TEXT NOT NULL,
    from_ms INTEGER NOT NULL,
    PRIMARY KEY (lineage, segment)
) STRICT, WITHOUT ROWID;

-- One partition's closed part of a window. The counts go when the window is judged, the digest stays.
CREATE TABLE partials (
    lineage      INTEGER NOT NULL REFERENCES lineages (id),
    window_start INTEGER NOT NULL,
    topic        TEXT NOT NULL,
    partition    INTEGER NOT NULL,
    window_end   INTEGER NOT NULL,
    digest       BLOB NOT NULL,
    counts       BLOB,
    PRIMARY KEY (lineage, window_start, topic, partition)
) STRICT;

-- A window is judged once.
CREATE TABLE windows (
    lineage      INTEGER NOT NULL REFERENCES lineages (id),
    window_start INTEGER NOT NULL,
    window_end   INTEGER NOT NULL,
    judged_ms    INTEGER NOT NULL,
    PRIMARY KEY (lineage, window_start)
) STRICT, WITHOUT ROWID;

-- What was counted and said of each model version in it.
CREATE TABLE judged_models (
    lineage       INTEGER NOT NULL,
    window_start  INTEGER NOT NULL,
    model_version TEXT NOT NULL,
    reference     TEXT,
    counts        BLOB NOT NULL,
    report        BLOB NOT NULL,
    offsets       TEXT NOT NULL,
    rejected      INTEGER NOT NULL,
    PRIMARY KEY (lineage, window_start, model_version),
    FOREIGN KEY (lineage, window_start) REFERENCES windows (lineage, window_start)
) STRICT;

-- The same by segment, in columns for people and for the API.
CREATE TABLE judged_segments (
    lineage       INTEGER NOT NULL,
    window_start  INTEGER NOT NULL,
    model_version TEXT NOT NULL,
    segment       TEXT NOT NULL,
    verdict       TEXT NOT NULL,
    why           TEXT,
    records       INTEGER NOT NULL,
    entities      INTEGER NOT NULL,
    fvu           REAL,
    cosine        REAL,
    norm_ratio    REAL,
    l0            REAL,
    PRIMARY KEY (lineage, window_start, model_version, segment),
    FOREIGN KEY (lineage, window_start, model_version) REFERENCES judged_models (lineage, window_start, model_version)
) STRICT, WITHOUT ROWID;

-- Newest state of the detectors, an opaque blob of the judge.
CREATE TABLE judge_states (
    lineage       INTEGER NOT NULL REFERENCES lineages (id),
    model_version TEXT NOT NULL,
    window_start  INTEGER NOT NULL,
    state         BLOB NOT NULL,
    PRIMARY KEY (lineage, model_version)
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    lineage       INTEGER NOT NULL REFERENCES lineages (id),
    state         TEXT NOT NULL,
    model_version TEXT NOT NULL,
    segment       TEXT NOT NULL,
    stream        TEXT NOT NULL,
    alerted_ms    INTEGER NOT NULL,
    ended_ms      INTEGER
) STRICT;
CREATE INDEX firing ON alerts (state, model_version, segment, stream);

-- Every crossing, on the alert it opened or was written on.
CREATE TABLE crossings (
    alert         INTEGER NOT NULL REFERENCES alerts (id),
    window_start  INTEGER NOT NULL,
    window_end    INTEGER NOT NULL,
    direction     TEXT NOT NULL,
    evidence_log  REAL,
    threshold_log REAL,
    ratio         REAL,
    ratio_low     REAL,
    ratio_high    REAL,
    began         INTEGER NOT NULL,
    began_low     INTEGER NOT NULL,
    began_high    INTEGER NOT NULL,
    exposure      REAL,
    mde_ratio     REAL,
    reference     TEXT NOT NULL,
    PRIMARY KEY (alert, window_start)
) STRICT, WITHOUT ROWID;

-- What people did about alerts.
CREATE TABLE actions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    alert    INTEGER NOT NULL REFERENCES alerts (id),
    action   TEXT NOT NULL,
    who      TEXT NOT NULL,
    why      TEXT NOT NULL,
    at_ms    INTEGER NOT NULL,
    until_ms INTEGER
) STRICT;
CREATE INDEX actions_of ON actions (alert);

-- References: immutable under their name.
CREATE TABLE reference_models (
    name        TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    from_ms     INTEGER NOT NULL,
    to_ms       INTEGER NOT NULL,
    windows     INTEGER NOT NULL,
    body        BLOB NOT NULL,
    approved_ms INTEGER,
    approved_by TEXT,
    approved_why TEXT
) STRICT;

-- hash = sha256 of the previous hash and this entry; nothing is ever changed or removed.
CREATE TABLE audit (
    id    INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    body  TEXT NOT NULL,
    hash  BLOB NOT NULL
) STRICT;

-- Salt of entity hashes, by its name; deleting it makes hashes that were stored nobody's.
CREATE TABLE salts (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
