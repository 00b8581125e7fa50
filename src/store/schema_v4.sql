-- Why an alert was raised: examples, carriers, what is shown with it (MessagePack in zstd); null once retention took it.
CREATE TABLE explanations (
    alert   INTEGER PRIMARY KEY REFERENCES alerts (id),
    made_ms INTEGER NOT NULL,
    body    BLOB
) STRICT;
