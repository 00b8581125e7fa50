//! How to run, and what a running monitor shows to the parts around it.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::metrics::registry::ProcessMetrics;
use crate::monitor::command::Commands;
use crate::monitor::error::MonitorError;
use crate::snapshot::{Live, SnapshotCell};

/// How to run.
pub struct RunOptions {
    /// Stop at the end the log had at the start, everything closed and judged.
    pub until_end: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Called once, when everything is opened and before the first record is read: where listeners start.
    pub on_open: OnOpen,
}

/// What to do with the parts that others read.
pub type OnOpen = Box<dyn FnOnce(Opened) -> Result<(), MonitorError> + Send>;

/// Parts of a running monitor that others read, and the way to its judge.
pub struct Opened {
    /// The judge's picture.
    pub snapshot: Arc<SnapshotCell>,
    /// Partitions and readiness.
    pub live: Arc<Live>,
    /// The process's metrics.
    pub metrics: Arc<ProcessMetrics>,
    /// Where operator actions go.
    pub commands: Commands,
    /// Bundles by model version.
    pub bundles: Vec<(String, Arc<Bundle>)>,
}
