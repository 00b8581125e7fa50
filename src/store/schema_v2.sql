-- Windows of the partition that may miss records (retention, a new lineage), JSON; null: none does.
ALTER TABLE positions ADD COLUMN gap TEXT;
