//! What the threads of an instance share about its cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::task::Shutdown;

/// How often a thread looks whether the shared topics are read.
const LOOK: Duration = Duration::from_millis(20);

/// Flags that go up once.
#[derive(Debug, Default)]
pub struct Together {
    is_cluster: bool,
    caught_up: AtomicBool,
    gave_up: AtomicBool,
}

impl Together {
    /// Of an instance in a cluster, or of one alone.
    #[must_use]
    pub fn new(is_cluster: bool) -> Self {
        Self { is_cluster, ..Self::default() }
    }

    /// Whether there is a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Everything that was shared at the start is carried out here.
    pub fn has_caught_up(&self) {
        self.caught_up.store(true, Ordering::SeqCst);
    }

    /// Waits until everything that was shared at the start is carried out here; whether it is: else the shutdown came.
    /// Who reads records before would begin them behind others, and follow segments from elsewhere on.
    #[must_use]
    pub fn wait_until_caught_up(&self, shutdown: &Shutdown) -> bool {
        while self.is_cluster && !self.caught_up.load(Ordering::SeqCst) {
            if shutdown.wait_timeout(LOOK) {
                return false;
            }
        }
        true
    }

    /// This instance can judge no more: another one must.
    pub fn gives_up_duty(&self) {
        self.gave_up.store(true, Ordering::SeqCst);
    }

    /// Whether it has given the duty up.
    #[must_use]
    pub fn gave_up_duty(&self) -> bool {
        self.gave_up.load(Ordering::SeqCst)
    }
}
