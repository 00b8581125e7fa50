//! Everything stored against the chain: what an entry tells must be what the tables hold.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::store::audit::{self, AuditEntry, Verification};
use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::{alert_rows, codec, explanations, reference_rows};

impl StoreReader {
    /// Checks the whole chain, and every judged window, reference, alert, explanation and action against the entry that
    /// tells of it. `each` sees every entry that holds.
    ///
    /// | the table holds                       | outcome                                                    |
    /// |---------------------------------------|------------------------------------------------------------|
    /// | what the entry says                    | goes on                                                    |
    /// | nothing, and a `pruned` entry covers it | goes on: it was taken away, with who and why               |
    /// | something else, or nothing             | broken at this entry                                       |
    ///
    /// # Errors
    /// Tables and indices that do not agree, or the database refuses.
    pub fn verify_audit(&self, mut each: impl FnMut(&AuditEntry)) -> StoreResult<Verification> {
        // A flipped key in a table leaves its index as it was: the check below would find the row by the
        // index, while an export that walks the table would miss it.
        let structure: String = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if structure != "ok" {
            return Err(StoreError::damaged("its structure", structure));
        }
        let pruned_before = self.pruned_before()?;
        audit::verify(&self.connection, |entry| {
            each(entry);
            let body = || serde_json::from_str::<Value>(&entry.body);
            let check = match entry.kind.as_str() {
                "judged" => |reader: &Self, body: &Value, pruned: i64| reader.check_judged(body, pruned),
                "reference" => |reader: &Self, body: &Value, _: i64| reader.check_reference(body),
                "alert_opened" => |reader: &Self, body: &Value, _: i64| reader.check_alert(body),
                "action" => |reader: &Self, body: &Value, _: i64| reader.check_action(body),
                "explained" => |reader: &Self, body: &Value, pruned: i64| reader.check_explained(body, pruned),
                _ => return Ok(None),
            };
            let Ok(body) = body() else { return Ok(Some("its body is no JSON".into())) };
            check(self, &body, pruned_before)
        })
    }

    /// Windows that ended by then may be missing: the newest deletion on the record; `i64::MIN` without one.
    ///
    /// # Errors
    /// The database refuses.
    pub fn pruned_before(&self) -> StoreResult<i64> {
        let mut statement = self.connection.prepare("SELECT body FROM audit WHERE kind = 'pruned'")?;
        let bodies = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let before = bodies.iter().filter_map(|body| serde_json::from_str::<Value>(body).ok()?["before_ms"].as_i64());
        Ok(before.max().unwrap_or(i64::MIN))
    }

    fn check_judged(&self, body: &Value, pruned_before: i64) -> StoreResult<Option<String>> {
        let (lineage, start) = (body["lineage"].as_i64(), body["window_start"].as_i64());
        let pruned = body["window_end"].as_i64().is_some_and(|end| end <= pruned_before);
        for model in body["models"].as_array().into_iter().flatten() {
            let version = model["model_version"].as_str();
            let sql = "SELECT counts, report FROM judged_models WHERE lineage = ?1 AND window_start = ?2 AND model_version = ?3";
            let found: Option<(Vec<u8>, Vec<u8>)> =
                self.connection.query_row(sql, params![lineage, start, version], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((counts, report)) = found else {
                if pruned {
                    continue;
                }
                return Ok(Some(format!("window {} of model {:?} is missing", start.unwrap_or(0), version.unwrap_or(""))));
            };
            for (what, blob) in [("counts", counts), ("report", report)] {
                let digest = codec::decompress(&blob).map(|bytes| codec::hex(&codec::digest(&bytes))).ok();
                if digest.as_deref() != model[what].as_str() {
                    return Ok(Some(format!("{what} of window {} are not those that were judged", start.unwrap_or(0))));
                }
            }
        }
        Ok(None)
    }

    fn check_reference(&self, body: &Value) -> StoreResult<Option<String>> {
        let name = body["name"].as_str().unwrap_or("");
        let digest = match reference_rows::load(&self.connection, name) {
            Ok(Some((_, bytes))) => codec::hex(&codec::digest(&bytes)),
            Ok(None) => return Ok(Some(format!("reference {name:?} is missing"))),
            Err(StoreError::Damaged { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        Ok((Some(digest.as_str()) != body["sha256"].as_str()).then(|| format!("reference {name:?} is not the one that was stored")))
    }

    /// The crossing that opened the alert, number by number as the entry printed it.
    fn check_alert(&self, body: &Value) -> StoreResult<Option<String>> {
        let id = body["alert"].as_i64().unwrap_or(0);
        let Some(alert) = alert_rows::load(&self.connection, id)? else { return Ok(Some(format!("alert {id} is missing"))) };
        // Through text on both sides: the entry's numbers were printed and read once.
        let printed = serde_json::to_string(&alert.opened).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        // An entry of an older program tells of no concept.
        let same_concept = body.get("concept").is_none_or(|told| serde_json::to_value(&alert.concept).is_ok_and(|found| found == *told));
        Ok((printed.as_ref() != Some(&body["crossing"]) || !same_concept).then(|| format!("alert {id} is not the one that was opened")))
    }

    fn check_explained(&self, body: &Value, pruned_before: i64) -> StoreResult<Option<String>> {
        let id = body["alert"].as_i64().unwrap_or(0);
        let digest = match explanations::stored(&self.connection, id) {
            Ok(Some(bytes)) => codec::hex(&codec::digest(&bytes)),
            Ok(None) => {
                let opened = alert_rows::load(&self.connection, id)?.map(|alert| alert.opened.window_end_ms);
                let pruned = opened.is_some_and(|end| end <= pruned_before);
                return Ok((!pruned).then(|| format!("the explanation of alert {id} is missing")));
            }
            Err(StoreError::Damaged { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        Ok((Some(digest.as_str()) != body["sha256"].as_str())
            .then(|| format!("the explanation of alert {id} is not the one that was made")))
    }

    fn check_action(&self, body: &Value) -> StoreResult<Option<String>> {
        let sql = "SELECT count(*) FROM actions WHERE alert = ?1 AND action = ?2 AND who = ?3 AND why = ?4 AND until_ms IS ?5";
        let text = |key: &str| body[key].as_str();
        let found = params![body["alert"].as_i64(), text("action"), text("who"), text("why"), body["until_ms"].as_i64()];
        let n: i64 = self.connection.query_row(sql, found, |row| row.get(0))?;
        Ok((n == 0).then(|| format!("the action on alert {} is missing or was changed", body["alert"])))
    }
}
