-- The newest record that was counted of a partition: by its time in the broker's log the log is known again, so that a
-- topic that was made anew under its name, or another cluster at the same address, is not read on.
ALTER TABLE positions ADD COLUMN mark_offset INTEGER;
ALTER TABLE positions ADD COLUMN mark_timestamp_ms INTEGER;
