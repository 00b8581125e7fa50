//! The dead latents of a step, for the auxiliary loss.
//!
//! They are few (a tenth, when a run has settled), so that their own product is a tenth of the encoder's, and the
//! screen need not keep the values of latents that no row selects.

use crate::encode::native::{Kernel, LiveModel, SomeLatents};
use crate::workshop::train::state::TrainingState;

/// The dead latents, with their encoder weights side by side.
#[derive(Debug)]
pub struct Asleep {
    latents: Vec<u32>,
    weights: SomeLatents,
}

impl Asleep {
    /// None, of models of this shape.
    #[must_use]
    pub fn new(d_in: usize, kernel: Kernel) -> Self {
        Self { latents: Vec::new(), weights: SomeLatents::new(d_in, kernel) }
    }

    /// Collects the latents that have not fired for `dead_after` rows.
    pub fn collect(&mut self, state: &TrainingState, live: &LiveModel, dead_after: u64) {
        self.latents.clear();
        self.latents.extend((0u32..).zip(&state.fired_at).filter(|(_, at)| state.rows - **at >= dead_after).map(|(j, _)| j));
        self.weights.take(live, &self.latents);
    }

    /// The dead latents, ascending.
    #[must_use]
    pub fn latents(&self) -> &[u32] {
        &self.latents
    }

    /// Values of a row: those of the latents, and zeros behind them.
    #[must_use]
    pub fn width(&self) -> usize {
        self.weights.width()
    }

    /// Values of all of them for centred rows `[n, d_in]`: `[n, width]`, without ReLU.
    pub fn values(&self, rows: &[f32], into: &mut Vec<f32>) {
        self.weights.values(rows, into);
    }
}
