//! References read back from their rows.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::store::codec;
use crate::store::error::StoreResult;

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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Approval {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
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
