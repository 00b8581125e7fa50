//! What the handlers share: the picture, the live facts, the way to the judge, the record.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::http::actions::{ActionSender, ReferenceSender, ReloadSender, Token};
use crate::metrics::exposition::Exposition;
use crate::snapshot::{Live, SnapshotCell};
use crate::store::StoreReader;

/// What the handlers read from and send to.
pub struct HttpState {
    /// The judge's picture.
    pub snapshots: Arc<SnapshotCell>,
    /// Partitions and readiness.
    pub live: Arc<Live>,
    /// `/metrics`.
    pub exposition: Arc<Exposition>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Hands an action to the judge.
    pub actions: ActionSender,
    /// Fits references and has them stored.
    pub references: ReferenceSender,
    /// Takes the configuration up anew; `None` where it came from no file.
    pub reload: Option<ReloadSender>,
    /// What an action must show; without one actions are refused.
    pub token: Option<Token>,
    /// Bundles by model version: what a concept's card says of names and neighbours.
    pub bundles: Vec<(String, Arc<Bundle>)>,
    /// The store, opened for reading when first asked.
    pub history: History,
}

/// The store's read-only connection, opened when first needed.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    reader: Mutex<Option<StoreReader>>,
}

impl History {
    /// Of the store at `path`.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        Self { path, reader: Mutex::new(None) }
    }

    /// Where the store lies.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Reads with the connection; it is dropped after a failure, so that the next call opens a new one.
    ///
    /// # Errors
    /// The store cannot be opened, or `read` fails.
    pub fn read<T>(&self, read: impl FnOnce(&StoreReader) -> Result<T, crate::store::StoreError>) -> Result<T, crate::store::StoreError> {
        let mut slot = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reader = match slot.take() {
            Some(reader) => reader,
            None => StoreReader::open(&self.path)?,
        };
        let found = read(&reader)?;
        *slot = Some(reader);
        Ok(found)
    }
}
