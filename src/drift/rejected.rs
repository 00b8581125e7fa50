//! Rejects of a partition by the window they are told with: those since the window before was closed.
//!
//! Windows are closed before an edge that moves with the watermark, and taken later, at the end of a batch. So that a
//! window is the same however its records were batched, rejects are kept by the move of the edge they came before. They
//! go with the oldest window that a move has closed; a move that closes none leaves them to the next.

use std::collections::BTreeMap;

use crate::record::RejectReason;

/// Rejects by reason.
type Counts = BTreeMap<RejectReason, u64>;

/// Rejects that no window was told yet.
#[derive(Debug)]
pub(super) struct RejectsByWindow {
    /// Since the last move.
    since: Counts,
    /// Where each move led, and what came before it.
    moves: Vec<(i64, Counts)>,
    /// Newest edge whose rejects a window has: others that start before it were closed by the same move.
    told_before_ms: i64,
}

impl RejectsByWindow {
    /// Goes on with rejects that no window was told.
    pub(super) fn resume(since: Counts) -> Self {
        Self { since, moves: Vec::new(), told_before_ms: i64::MIN }
    }

    pub(super) fn add(&mut self, reason: RejectReason) {
        *self.since.entry(reason).or_insert(0) += 1;
    }

    /// Windows that start before `edge_ms` are closed from here on.
    pub(super) fn edge_moved(&mut self, edge_ms: i64) {
        self.moves.push((edge_ms, std::mem::take(&mut self.since)));
    }

    /// Those of the window that starts then; windows are asked for oldest first.
    pub(super) fn told_with(&mut self, start_ms: i64) -> Counts {
        let mut told = Counts::new();
        if self.told_before_ms > start_ms {
            return told;
        }
        let n = self.moves.iter().position(|(edge, _)| *edge > start_ms).map_or(0, |at| at + 1);
        for (edge, counts) in self.moves.drain(..n) {
            self.told_before_ms = edge;
            join(&mut told, &counts);
        }
        told
    }

    /// No window waits to be taken: what is left goes with the next one.
    pub(super) fn leave_to_next(&mut self) {
        self.since = self.untold();
        self.moves.clear();
    }

    /// All of them.
    pub(super) fn untold(&self) -> Counts {
        let mut all = self.since.clone();
        self.moves.iter().for_each(|(_, counts)| join(&mut all, counts));
        all
    }
}

fn join(to: &mut Counts, more: &Counts) {
    more.iter().for_each(|(reason, n)| *to.entry(*reason).or_insert(0) += n);
}
