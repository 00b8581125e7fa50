//! Everything stored against the chain: what an entry tells must be what the tables hold, and what they hold must be told.
//!
//! The chain is read twice. The first reading follows what it tells to the end: an alert is opened by one entry
//! and ended by another, and only the last word can be compared with its row. The second compares entry by entry, so that
//! the first broken one is named. Rows that no entry tells of are looked for last.
//!
//! Not compared: positions of partitions, parts of windows that are not judged yet, and the salt. They are what the
//! monitor works with and nobody is shown them as a record; a window's counts and offsets are in its own entry.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::store::audit::{self, AuditEntry, Verification};
use crate::store::check::told::Told;
use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::{codec, explanations, reference_rows};

mod alerts;
mod judged;
mod told;
mod untold;

/// What is wrong, where something is.
type Fault = Option<String>;

impl StoreReader {
    /// Checks the whole chain, and every row that a reader is shown as a record against the entry that tells of it: judged
    /// windows with their columns by segment, lineages, references and approvals, alerts with their state and crossings,
    /// explanations, actions, the detectors' state. `each` sees every entry that holds.
    ///
    /// | the table holds                       | outcome                                                    |
    /// |---------------------------------------|------------------------------------------------------------|
    /// | what the entry says                    | goes on                                                    |
    /// | nothing, and a `pruned` entry covers it | goes on: it was taken away, with who and why               |
    /// | something else, or nothing             | broken at this entry                                       |
    /// | a row that no entry tells of           | [`Verification::Untold`]                                   |
    ///
    /// # Errors
    /// Tables and indices that do not agree, or the database refuses.
    pub fn verify_audit(&self, mut each: impl FnMut(&AuditEntry)) -> StoreResult<Verification> {
        // One picture for all that is read, while a writer goes on.
        let _picture = self.connection.is_autocommit().then(|| self.connection.unchecked_transaction()).transpose()?;
        // A flipped key in a table leaves its index as it was: the check below would find the row by the
        // index, while an export that walks the table would miss it.
        let structure: String = self.connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if structure != "ok" {
            return Err(StoreError::damaged("its structure", structure));
        }
        let mut told = Told::default();
        let chain = audit::verify(&self.connection, |entry| {
            told.hear(entry);
            Ok(None)
        })?;
        // Behind a break nothing that is told counts, so neither does the last word.
        let whole = matches!(chain, Verification::Intact { .. });
        let found = audit::verify(&self.connection, |entry| {
            each(entry);
            named(self.check_entry(entry, &told, whole))
        })?;
        match found {
            Verification::Intact { entries, head } => Ok(match named(self.untold(&told))? {
                Some(what) => Verification::Untold { entries, head, what },
                None => Verification::Intact { entries, head },
            }),
            broken => Ok(broken),
        }
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

    fn check_entry(&self, entry: &AuditEntry, told: &Told, whole: bool) -> StoreResult<Fault> {
        let Ok(body) = serde_json::from_str::<Value>(&entry.body) else {
            return Ok(Told::is_checked(&entry.kind).then(|| "its body is no JSON".into()));
        };
        let own = match entry.kind.as_str() {
            "judged" => self.check_judged(entry, &body, told)?,
            "reference" => self.check_reference(entry, &body)?,
            "alert_opened" => self.check_opened(entry, &body, told)?,
            "alert_crossed" => self.check_crossed(&body)?,
            "action" => self.check_action(entry, &body, told)?,
            "explained" => self.check_explained(entry, &body, told)?,
            _ => None,
        };
        if own.is_some() || !whole {
            return Ok(own);
        }
        if let Some(fault) = self.check_last_words(entry, told)? {
            return Ok(Some(fault));
        }
        self.check_alert_states(entry.id, told)
    }

    fn check_reference(&self, entry: &AuditEntry, body: &Value) -> StoreResult<Fault> {
        let name = body["name"].as_str().unwrap_or("");
        let (row, bytes) = match reference_rows::load(&self.connection, name) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Some(format!("reference {name:?} is missing"))),
            Err(StoreError::Damaged { .. }) => return Ok(Some(format!("reference {name:?} is not the one that was stored"))),
            Err(error) => return Err(error),
        };
        let digest = codec::hex(&codec::digest(&bytes));
        if Some(digest.as_str()) != body["sha256"].as_str() {
            return Ok(Some(format!("reference {name:?} is not the one that was stored")));
        }
        let same = Some(row.fingerprint.as_str()) == body["fingerprint"].as_str()
            && Some(row.windows) == body["windows"].as_i64()
            && row.created_ms == entry.at_ms
            // An entry of an older program does not tell the span.
            && body["from_ms"].as_i64().is_none_or(|from_ms| from_ms == row.from_ms)
            && body["to_ms"].as_i64().is_none_or(|to_ms| to_ms == row.to_ms);
        Ok((!same).then(|| format!("what is listed of reference {name:?} is not what was stored")))
    }

    fn check_explained(&self, entry: &AuditEntry, body: &Value, told: &Told) -> StoreResult<Fault> {
        let id = body["alert"].as_i64().unwrap_or(0);
        let made_ms: Option<i64> =
            self.connection.query_row("SELECT made_ms FROM explanations WHERE alert = ?1", [id], |row| row.get(0)).optional()?;
        let digest = match explanations::stored(&self.connection, id) {
            Ok(Some(bytes)) => codec::hex(&codec::digest(&bytes)),
            Ok(None) => {
                let pruned = made_ms.is_some() && told.opened_window_end(id).is_some_and(|end| end <= told.pruned_before_ms);
                return Ok((!pruned).then(|| format!("the explanation of alert {id} is missing")));
            }
            Err(StoreError::Damaged { .. }) => String::new(),
            Err(error) => return Err(error),
        };
        // One that was lost and made again is the same, but for its time, which its own entry tells.
        let is_last = told.explained.get(&id) == Some(&entry.id);
        let same = Some(digest.as_str()) == body["sha256"].as_str() && (!is_last || made_ms == Some(entry.at_ms));
        Ok((!same).then(|| format!("the explanation of alert {id} is not the one that was made")))
    }

    /// The n-th action told is the n-th row: actions are only ever added.
    fn check_action(&self, entry: &AuditEntry, body: &Value, told: &Told) -> StoreResult<Fault> {
        let sql = "SELECT alert IS ?1 AND action IS ?2 AND who IS ?3 AND why IS ?4 AND until_ms IS ?5 AND at_ms IS ?6
                   FROM actions ORDER BY id LIMIT 1 OFFSET ?7";
        let text = |key: &str| body[key].as_str();
        let before = told.actions_before(entry.id);
        let (alert, until_ms) = (body["alert"].as_i64(), body["until_ms"].as_i64());
        let found = params![alert, text("action"), text("who"), text("why"), until_ms, entry.at_ms, before];
        let same: Option<bool> = self.connection.query_row(sql, found, |row| row.get(0)).optional()?;
        Ok((same != Some(true)).then(|| format!("the action on alert {} is missing or was changed", body["alert"])))
    }
}

/// A row that cannot be read is a fault of its entry, not of who asks.
fn named(checked: StoreResult<Fault>) -> StoreResult<Fault> {
    match checked {
        Err(StoreError::Damaged { place, found }) => Ok(Some(format!("{place}: {found}"))),
        Err(StoreError::Database(error @ (rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)))) => {
            Ok(Some(format!("a row cannot be read: {error}")))
        }
        checked => checked,
    }
}

/// Whether a value reads as the entry's numbers do: through text on both sides, since those were printed and read once.
fn reads_as(value: &impl serde::Serialize, told: &Value) -> bool {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()).as_ref() == Some(told)
}
