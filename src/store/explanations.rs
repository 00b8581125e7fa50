//! Explanations of alerts: made from the records after the alert is on the record, kept once, proved by the chain.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use crate::drift::explanation::Explanation;
use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::writer::Store;
use crate::store::{audit, codec};

impl Store {
    /// Keeps the explanation of an alert, with an audit entry that holds its digest.
    ///
    /// | the alert                              | outcome           |
    /// |----------------------------------------|-------------------|
    /// | has none                               | kept              |
    /// | has one, or had one before retention   | nothing changes   |
    ///
    /// # Errors
    /// No such alert, or the database refuses.
    pub fn put_explanation(&mut self, alert: i64, explanation: &Explanation, now_ms: i64) -> StoreResult<()> {
        let body = codec::pack(explanation)?;
        let transaction = self.transaction()?;
        let known: i64 = transaction.query_row("SELECT count(*) FROM alerts WHERE id = ?1", [alert], |row| row.get(0))?;
        if known == 0 {
            return Err(StoreError::NotFound { what: "alert", name: alert.to_string() });
        }
        let sql = "INSERT OR IGNORE INTO explanations (alert, made_ms, body) VALUES (?1, ?2, ?3)";
        if transaction.execute(sql, params![alert, now_ms, codec::compress(&body)?])? > 0 {
            audit::append(&transaction, now_ms, "explained", &json!({"alert": alert, "sha256": codec::hex(&codec::digest(&body))}))?;
        }
        transaction.commit()
    }
}

impl StoreReader {
    /// The explanation of an alert; `None` while it is not made, and once retention took it.
    ///
    /// # Errors
    /// A damaged blob, or the database refuses.
    pub fn explanation(&self, alert: i64) -> StoreResult<Option<Explanation>> {
        stored(&self.connection, alert)?.map(|body| codec::unpack(&body)).transpose()
    }

    /// Alerts of the current lineage that no explanation was made of, oldest first.
    ///
    /// # Errors
    /// The database refuses.
    pub fn unexplained(&self) -> StoreResult<Vec<i64>> {
        let sql = "SELECT id FROM alerts a WHERE lineage = (SELECT max(id) FROM lineages)
                   AND NOT EXISTS (SELECT 1 FROM explanations e WHERE e.alert = a.id) ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}

/// The explanation's bytes as they were kept.
pub(super) fn stored(connection: &Connection, alert: i64) -> StoreResult<Option<Vec<u8>>> {
    let body: Option<Option<Vec<u8>>> =
        connection.query_row("SELECT body FROM explanations WHERE alert = ?1", [alert], |row| row.get(0)).optional()?;
    body.flatten().map(|frame| codec::decompress(&frame)).transpose()
}
