//! The salt of entity hashes: made once from the system's randomness, kept in the store, never shown.

use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;

const ENTITY: &str = "entity";
const RANDOM: &str = "/dev/urandom";

impl Store {
    /// The salt of entity hashes, made at the first call.
    ///
    /// # Errors
    /// The system gives no randomness, or the database refuses.
    pub fn entity_salt(&mut self) -> StoreResult<[u8; 16]> {
        let transaction = self.transaction()?;
        if let Some(salt) = stored(&transaction)? {
            return Ok(salt);
        }
        let salt = draw()?;
        transaction.execute("INSERT INTO salts (name, value) VALUES (?1, ?2)", rusqlite::params![ENTITY, salt])?;
        transaction.commit()?;
        Ok(salt)
    }

    /// Hashes entities with this salt, which all instances of a cluster share, from here on.
    ///
    /// # Errors
    /// The database refuses.
    pub fn take_salt(&mut self, salt: [u8; 16]) -> StoreResult<()> {
        let sql = "INSERT INTO salts (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2";
        self.reader.connection.execute(sql, rusqlite::params![ENTITY, salt])?;
        Ok(())
    }
}

/// A new salt from the system's randomness.
///
/// # Errors
/// The system gives none.
pub fn draw() -> StoreResult<[u8; 16]> {
    let mut salt = [0_u8; 16];
    let refused = |source| StoreError::Io { path: Path::new(RANDOM).to_owned(), source };
    std::fs::File::open(RANDOM).and_then(|mut file| file.read_exact(&mut salt)).map_err(refused)?;
    Ok(salt)
}

/// The salt, if there is one.
pub(super) fn stored(connection: &Connection) -> StoreResult<Option<[u8; 16]>> {
    Ok(connection.query_row("SELECT value FROM salts WHERE name = ?1", [ENTITY], |row| row.get(0)).optional()?)
}
