-- What a crossing explains beside its numbers (activation rate, what moved with it, what it is told with), MessagePack.
ALTER TABLE crossings ADD COLUMN more BLOB;
