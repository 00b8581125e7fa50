//! References: kept under their name, immutable; approval is an operator's act.

use rusqlite::params;
use serde_json::json;

use crate::store::error::{StoreError, StoreResult};
use crate::store::reference_rows::load;
pub use crate::store::reference_rows::{Approval, ReferenceEntry};
use crate::store::writer::Store;
use crate::store::{audit, codec};

impl Store {
    /// Keeps a reference: `body` is its own serialised form. `entry.approval` must be `None`.
    ///
    /// | name      | body      | outcome               |
    /// |-----------|-----------|-----------------------|
    /// | free      | any       | kept, audit entry     |
    /// | taken     | the same  | nothing changes       |
    /// | taken     | another   | refused               |
    /// | blank     | any       | refused               |
    ///
    /// # Errors
    /// As the table says, or the database refuses.
    pub fn put_reference(&mut self, entry: &ReferenceEntry, body: &[u8]) -> StoreResult<()> {
        if entry.name.trim().is_empty() {
            return Err(StoreError::Refused("expected a reference's name, found an empty text".into()));
        }
        let transaction = self.transaction()?;
        if let Some((_, known)) = load(&transaction, &entry.name)? {
            if known == body {
                return Ok(());
            }
            return Err(StoreError::Refused(format!(
                "a reference named {:?} is in the store with other contents: references are immutable, choose another name",
                entry.name
            )));
        }
        transaction.execute(
            "INSERT INTO reference_models (name, fingerprint, created_ms, from_ms, to_ms, windows, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![entry.name, entry.fingerprint, entry.created_ms, entry.from_ms, entry.to_ms, entry.windows, codec::compress(body)?],
        )?;
        let digest = codec::hex(&codec::digest(body));
        let (from_ms, to_ms) = (entry.from_ms, entry.to_ms);
        let facts = json!({"name": entry.name, "fingerprint": entry.fingerprint, "from_ms": from_ms, "to_ms": to_ms, "windows": entry.windows, "sha256": digest});
        audit::append(&transaction, entry.created_ms, "reference", &facts)?;
        transaction.commit()
    }

    /// Approves a reference, once: who let it be used, and why, stays as it was said.
    ///
    /// # Errors
    /// No such reference, it is approved already, nobody or no reason is named, or the database refuses.
    pub fn approve_reference(&mut self, name: &str, approval: &Approval) -> StoreResult<()> {
        for (what, text) in [("who approves", &approval.who), ("why", &approval.why)] {
            if text.trim().is_empty() {
                return Err(StoreError::Refused(format!("an approval needs to say {what}, found an empty text")));
            }
        }
        let transaction = self.transaction()?;
        let Some((entry, _)) = load(&transaction, name)? else {
            return Err(StoreError::NotFound { what: "reference", name: name.to_owned() });
        };
        if let Some(before) = entry.approval {
            let when = crate::drift::alert::utc_text(before.at_ms);
            return Err(StoreError::Refused(format!(
                "reference {name:?} was approved by {:?} at {when}: an approval stays; build a reference of another name to approve anew",
                before.who
            )));
        }
        transaction.execute(
            "UPDATE reference_models SET approved_ms = ?2, approved_by = ?3, approved_why = ?4 WHERE name = ?1",
            params![name, approval.at_ms, approval.who, approval.why],
        )?;
        let facts = json!({"name": name, "who": approval.who, "why": approval.why});
        audit::append(&transaction, approval.at_ms, "reference_approved", &facts)?;
        transaction.commit()
    }
}
