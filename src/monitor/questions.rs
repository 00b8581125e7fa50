//! Which alerts the judge has asked the explainer about, and whether answers are still to come.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::mpsc::SyncSender;

use crate::store::{StoreError, StoreReader};

/// Questions that may wait: beyond them the next alert asks for what is left out.
pub const QUESTIONS_WAITING: usize = 1024;

/// The judge's side of the explainer.
#[derive(Debug)]
pub struct Questions {
    ask: SyncSender<i64>,
    /// Gone with the explainer.
    alive: Weak<()>,
    asked: BTreeSet<i64>,
    n_open: usize,
}

impl Questions {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(ask: SyncSender<i64>, alive: Weak<()>) -> Self {
        Self { ask, alive, asked: BTreeSet::new(), n_open: 0 }
    }

    /// Asks about every alert of the lineage that is not explained, once in this process.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn ask(&mut self, reader: &StoreReader) -> Result<(), StoreError> {
        for alert in reader.unexplained()? {
            if !self.asked.contains(&alert) && self.ask.try_send(alert).is_ok() {
                self.asked.insert(alert);
                self.n_open += 1;
            }
        }
        Ok(())
    }

    /// One was answered.
    pub fn answered(&mut self) {
        self.n_open = self.n_open.saturating_sub(1);
    }

    /// Whether answers are to come.
    #[must_use]
    pub fn are_open(&self) -> bool {
        self.n_open > 0 && self.alive.strong_count() > 0
    }
}
