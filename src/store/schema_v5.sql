-- The concept an alert was opened on, as it was known then: a later SAE has other concepts under the same stream.
ALTER TABLE alerts ADD COLUMN fingerprint TEXT;
ALTER TABLE alerts ADD COLUMN concept TEXT;
ALTER TABLE alerts ADD COLUMN verification TEXT;
-- Alerts from before have no name; the reference they were judged against tells which SAE they were of.
UPDATE alerts SET fingerprint = (
    SELECT r.fingerprint FROM crossings c JOIN reference_models r ON r.name = c.reference
    WHERE c.alert = alerts.id ORDER BY c.window_start LIMIT 1
);
