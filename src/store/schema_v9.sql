-- The id that the broker gave a topic when it was made, as it was first seen: a topic that was made anew under its name has
-- another, however long it is.
CREATE TABLE topics (
    topic TEXT PRIMARY KEY,
    id    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
