//! Alerts against the chain: what opened each, every crossing since, and the state it was left in.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use super::told::Told;
use super::{Fault, reads_as};
use crate::drift::alert::AlertConcept;
use crate::store::alert_rows;
use crate::store::audit::AuditEntry;
use crate::store::error::StoreResult;
use crate::store::reader::StoreReader;

impl StoreReader {
    /// The crossing that opened the alert, number by number as the entry printed it.
    pub(super) fn check_opened(&self, entry: &AuditEntry, body: &Value, told: &Told) -> StoreResult<Fault> {
        let id = body["alert"].as_i64().unwrap_or(0);
        let Some(alert) = alert_rows::load(&self.connection, id)? else { return Ok(Some(format!("alert {id} is missing"))) };
        let same_concept = match body.get("concept") {
            Some(concept) => reads_as(&alert.concept, concept),
            // An older program tells of none, and its fingerprint was filled in later.
            None => alert.concept == AlertConcept::default() || !told.tells_all((told.lineage_of_alert(id), alert.opened.window_start_ms)),
        };
        // Half a name is none for who reads it, and none that was written.
        let sql = "SELECT lineage, (concept IS NULL) = (verification IS NULL) FROM alerts WHERE id = ?1";
        let (lineage, whole_name): (i64, bool) = self.connection.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let same = reads_as(&alert.opened, &body["crossing"])
            && same_concept
            && whole_name
            && alert.alerted_at_ms == entry.at_ms
            && told.lineage_of_alert(id) == Some(lineage);
        Ok((!same).then(|| format!("alert {id} is not the one that was opened")))
    }

    /// A later crossing of an alert.
    pub(super) fn check_crossed(&self, body: &Value) -> StoreResult<Fault> {
        let id = body["alert"].as_i64().unwrap_or(0);
        let window_start = body["crossing"]["window_start_ms"].as_i64().unwrap_or(0);
        let found = alert_rows::crossing_of(&self.connection, id, window_start)?;
        let same = found.is_some_and(|crossing| reads_as(&crossing, &body["crossing"]));
        Ok((!same).then(|| format!("a crossing of alert {id} is missing or was changed")))
    }

    /// The states of the alerts whose last change this entry tells of.
    pub(super) fn check_alert_states(&self, entry: i64, told: &Told) -> StoreResult<Fault> {
        for (id, fate) in told.fates_at(entry) {
            let sql = "SELECT state IS ?2 AND ended_ms IS ?3 FROM alerts WHERE id = ?1";
            let same: Option<bool> =
                self.connection.query_row(sql, params![id, fate.state.kind(), fate.ended_ms], |row| row.get(0)).optional()?;
            if same != Some(true) {
                return Ok(Some(format!("alert {id} is not {} any more in its row, or since another time", fate.state.kind())));
            }
        }
        Ok(None)
    }
}
