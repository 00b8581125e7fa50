//! References as the judge uses them: `MessagePack`, because a reference must come back bit for bit.

use crate::drift::reference::Reference;
use crate::store::error::{StoreError, StoreResult};
use crate::store::reader::StoreReader;
use crate::store::references::ReferenceEntry;
use crate::store::writer::Store;

impl ReferenceEntry {
    /// What is listed of a reference that was made at `now_ms`.
    #[must_use]
    pub fn of(reference: &Reference, now_ms: i64) -> Self {
        Self {
            name: reference.name.clone(),
            fingerprint: reference.fingerprint.clone(),
            created_ms: now_ms,
            from_ms: reference.first_start_ms,
            to_ms: reference.last_end_ms,
            windows: i64::try_from(reference.n_windows).unwrap_or(i64::MAX),
            approval: None,
        }
    }
}

impl Store {
    /// Keeps a fitted reference under its name; see [`Store::put_reference`].
    ///
    /// # Errors
    /// The name is taken by another reference, or the database refuses.
    pub fn put_fitted(&mut self, reference: &Reference, now_ms: i64) -> StoreResult<()> {
        let body = rmp_serde::to_vec_named(reference).map_err(|error| StoreError::damaged("reference to be stored", error))?;
        self.put_reference(&ReferenceEntry::of(reference, now_ms), &body)
    }
}

impl StoreReader {
    /// A fitted reference by name.
    ///
    /// # Errors
    /// It cannot be read, or the database refuses.
    pub fn fitted(&self, name: &str) -> StoreResult<Option<(ReferenceEntry, Reference)>> {
        let Some((entry, body)) = self.reference(name)? else { return Ok(None) };
        let reference = rmp_serde::from_slice(&body).map_err(|error| StoreError::damaged(format!("reference {name:?}"), error))?;
        Ok(Some((entry, reference)))
    }
}
