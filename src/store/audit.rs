//! The audit trail: a chain of hashes in which each entry proves all before it.
//!
//! `hash_i = sha256(hash_(i-1) | i | at_ms | length of kind | kind | body)`, integers little-endian, the
//! first previous hash 32 zero bytes. The body is the JSON text as stored, so that nothing has to be
//! written again in the same way to be checked. Entries of judged windows hold the digests of the counts
//! and of the report: a changed count breaks the chain too.

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::store::codec::hex;
use crate::store::error::{StoreError, StoreResult};

/// One entry of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Number, from 1 without gaps.
    pub id: i64,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
    /// What happened: `lineage`, `judged`, `alert_opened`, `action`, ...
    pub kind: String,
    /// The facts, JSON.
    pub body: String,
    /// Hash of everything up to here, hexadecimal.
    pub hash: String,
}

/// What `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Every entry follows from the one before.
    Intact {
        /// Entries.
        entries: i64,
        /// Hash of the last, hexadecimal; empty without entries.
        head: String,
    },
    /// The first entry that does not.
    Broken {
        /// Its number.
        entry: i64,
        /// What is wrong with it.
        why: String,
    },
    /// Every entry holds, but the tables hold more than the entries tell.
    Untold {
        /// Entries.
        entries: i64,
        /// Hash of the last, hexadecimal.
        head: String,
        /// The first row that no entry tells of.
        what: String,
    },
}

/// Adds an entry inside the transaction that does what it tells.
pub(super) fn append(connection: &Connection, at_ms: i64, kind: &str, body: &serde_json::Value) -> StoreResult<()> {
    let (last, previous) = last(connection)?.unwrap_or((0, [0; 32]));
    let (id, body) = (last + 1, body.to_string());
    let hash = chain(&previous, id, at_ms, kind, &body);
    let sql = "INSERT INTO audit (id, at_ms, kind, body, hash) VALUES (?1, ?2, ?3, ?4, ?5)";
    connection.prepare_cached(sql)?.execute(params![id, at_ms, kind, body, hash.as_slice()])?;
    Ok(())
}

/// Head of the chain, hexadecimal; empty without entries.
pub(super) fn head(connection: &Connection) -> StoreResult<String> {
    Ok(last(connection)?.map(|(_, hash)| hex(&hash)).unwrap_or_default())
}

/// Walks the chain; `each` sees every entry that holds and may refuse it with a reason.
pub(super) fn verify(
    connection: &Connection,
    mut each: impl FnMut(&AuditEntry) -> StoreResult<Option<String>>,
) -> StoreResult<Verification> {
    let mut statement = connection.prepare("SELECT id, at_ms, kind, body, hash FROM audit ORDER BY id")?;
    let mut rows = statement.query([])?;
    let (mut entries, mut previous) = (0_i64, [0_u8; 32]);
    while let Some(row) = rows.next()? {
        let entry = entries + 1;
        let broken = |why: &str| Ok(Verification::Broken { entry, why: why.to_owned() });
        let (id, at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (kind, body, hash): (String, String, Vec<u8>) = (row.get(2)?, row.get(3)?, row.get(4)?);
        if id != entry {
            return broken("the entry is missing");
        }
        let expected = chain(&previous, id, at_ms, &kind, &body);
        if hash != expected {
            return broken("its hash does not follow from its contents and the entry before");
        }
        if let Some(why) = each(&AuditEntry { id, at_ms, kind, body, hash: hex(&expected) })? {
            return broken(&why);
        }
        (entries, previous) = (entry, expected);
    }
    Ok(Verification::Intact { entries, head: if entries == 0 { String::new() } else { hex(&previous) } })
}

fn last(connection: &Connection) -> StoreResult<Option<(i64, [u8; 32])>> {
    let mut statement = connection.prepare_cached("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1")?;
    let row: Option<(i64, Vec<u8>)> = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    row.map(|(id, hash)| Ok((id, hash.try_into().map_err(|_| StoreError::damaged(format!("audit entry {id}"), "no 32-byte hash"))?)))
        .transpose()
}

fn chain(previous: &[u8; 32], id: i64, at_ms: i64, kind: &str, body: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(id.to_le_bytes());
    hash.update(at_ms.to_le_bytes());
    hash.update((kind.len() as u64).to_le_bytes());
    hash.update(kind);
    hash.update(body);
    hash.finalize().into()
}
