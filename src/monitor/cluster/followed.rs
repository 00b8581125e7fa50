//! What the readers of the shared topics hand to the judge.

use crate::monitor::cluster::entry::Entry;
use crate::store::shared_log::News;

/// A stretch of a shared topic.
#[derive(Debug)]
pub enum Followed {
    /// Of the windows topic.
    Windows {
        /// Parts and positions.
        news: News,
        /// For each position, whether its owner had read all that the log held.
        at_the_end: Vec<bool>,
        /// All that the topic holds was handed over.
        is_at_end: bool,
    },
    /// Of the judge's log.
    Log {
        /// Entries by offset.
        entries: Vec<(i64, Entry)>,
        /// All that the log holds was handed over.
        is_at_end: bool,
    },
}
