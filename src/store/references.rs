//! References: kept under their name, immutable; approval is an operator's act.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use crate::store::error::{StoreError, StoreResult};
use crate::store::{Store, audit, codec};

/// What is listed of a reference.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReferenceEntry {
    /// Its name.
    pub name: String,
    /// Fingerprint it belongs to.
    pub fingerprint: String,
    /// When it was made, ms since 1970 UTC.
    pub created_ms: i64,
    /// First instant of its first window.
    pub from_ms: i64,
    /// One past the last instant of its last.
    pub to_ms: i64,
    /// Windows in it.
    pub windows: i64,
    /// Who approved it, why and when.
    pub approval: Option<Approval>,
}

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Approval {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
}

impl Store {
    /// Keeps a reference: `body` is its own serialised form. `entry.approval` must be `None`.
    ///
    /// | name      | body      | outcome               |
    /// |-----------|-----------|-----------------------|
    /// | free      | any       | kept, audit entry     |
    /// | taken     | the same  | nothing changes       |
    /// | taken     | another   | refused               |
    ///
    /// # Errors
    /// As the table says, or the database refuses.
    pub fn put_reference(&mut self, entry: &ReferenceEntry, body: &[u8]) -> StoreResult<()> {
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
        let facts = json!({"name": entry.name, "fingerprint": entry.fingerprint, "windows": entry.windows, "sha256": digest});
        audit::append(&transaction, entry.created_ms, "reference", &facts)?;
        Ok(transaction.commit()?)
    }

    /// Approves a reference.
    ///
    /// # Errors
    /// No such reference, or the database refuses.
    pub fn approve_reference(&mut self, name: &str, approval: &Approval) -> StoreResult<()> {
        let transaction = self.transaction()?;
        let changed = transaction.execute(
            "UPDATE reference_models SET approved_ms = ?2, approved_by = ?3, approved_why = ?4 WHERE name = ?1",
            params![name, approval.at_ms, approval.who, approval.why],
        )?;
        if changed == 0 {
            return Err(StoreError::NotFound { what: "reference", name: name.to_owned() });
        }
        let facts = json!({"name": name, "who": approval.who, "why": approval.why});
        audit::append(&transaction, approval.at_ms, "reference_approved", &facts)?;
        Ok(transaction.commit()?)
    }
}

const COLUMNS: &str = "name, fingerprint, created_ms, from_ms, to_ms, windows, approved_ms, approved_by, approved_why";

/// All references, newest first.
pub(super) fn list(connection: &Connection) -> StoreResult<Vec<ReferenceEntry>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM reference_models ORDER BY created_ms DESC, name"))?;
    Ok(statement.query_map([], entry)?.collect::<Result<_, _>>()?)
}

/// One reference and its body.
pub(super) fn load(connection: &Connection, name: &str) -> StoreResult<Option<(ReferenceEntry, Vec<u8>)>> {
    let sql = format!("SELECT {COLUMNS}, body FROM reference_models WHERE name = ?1");
    let found = connection.query_row(&sql, [name], |row| Ok((entry(row)?, row.get::<_, Vec<u8>>(9)?))).optional()?;
    found.map(|(entry, body)| Ok((entry, codec::decompress(&body)?))).transpose()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<ReferenceEntry> {
    let approval = match (row.get(6)?, row.get(7)?, row.get(8)?) {
        (Some(at_ms), Some(who), Some(why)) => Some(Approval { who, why, at_ms }),
        _ => None,
    };
    Ok(ReferenceEntry {
        name: row.get(0)?,
        fingerprint: row.get(1)?,
        created_ms: row.get(2)?,
        from_ms: row.get(3)?,
        to_ms: row.get(4)?,
        windows: row.get(5)?,
        approval,
    })
}
