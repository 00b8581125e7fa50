//! The dead latents of a step, for the auxiliary loss.
//!
//! They are few (a tenth, when a run has settled), so that their own product is a tenth of the encoder's, and the
//! screen need not keep the values of latents that no row selects. Their weights lie side by side, a latent a lane, so that no sum
//! runs across lanes.

use crate::encode::native::{Largest, LiveModel};
use crate::sae::latent::LatentId;
use crate::workshop::train::dots::Dots;
use crate::workshop::train::linear::PANEL;
use crate::workshop::train::state::TrainingState;

/// The dead latents, with their encoder weights side by side.
#[derive(Debug, Default)]
pub struct Asleep {
    n: usize,
    /// Which they are, filled up with zeros to whole lanes.
    latents: Vec<u32>,
    /// `[panels, d_in, PANEL]`
    weights: Vec<f32>,
    /// `[panels, PANEL]`
    biases: Vec<f32>,
}

impl Asleep {
    /// Collects the latents that have not fired for `dead_after` rows.
    pub fn collect(&mut self, state: &TrainingState, live: &LiveModel, dead_after: u64) {
        self.latents.clear();
        self.latents.extend((0u32..).zip(&state.fired_at).filter(|(_, at)| state.rows - **at >= dead_after).map(|(j, _)| j));
        self.n = self.latents.len();
        let width = self.n.next_multiple_of(PANEL);
        let d_in = state.b_dec.weights.len();
        self.biases.clear();
        self.biases.extend(self.latents.iter().map(|latent| live.latent(*latent as usize).1));
        self.biases.resize(width, 0.0);
        self.weights.clear();
        self.weights.resize(width * d_in, 0.0);
        for (at, latent) in self.latents.iter().enumerate() {
            let (row, _) = live.latent(*latent as usize);
            let places = self.weights[at / PANEL * PANEL * d_in + at % PANEL..].iter_mut().step_by(PANEL);
            places.zip(row).for_each(|(place, w)| *place = *w);
        }
        self.latents.resize(width, 0);
    }

    /// How many there are.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values of all of them for centred rows `[n, d_in]`, without ReLU, and zeros behind them: `[n, width]`.
    ///
    /// ```text
    /// v = b;  v = fma(w[i], x[i], v)  for i = 0, 1, ...
    /// ```
    #[inline(always)]
    pub fn values(&self, dots: Dots, rows: &[f32], d_in: usize, into: &mut Vec<f32>) {
        let width = self.latents.len();
        into.resize(rows.len() / d_in * width, 0.0);
        let panels = self.weights.chunks_exact(d_in * PANEL).zip(self.biases.as_chunks::<PANEL>().0);
        for (panel, first) in panels.zip((0..).step_by(PANEL)) {
            dots.panel(panel, (rows, d_in), (&mut into[first..], width));
        }
    }

    /// Of row `at` of these values, the `k` largest above 0: latents, and values.
    pub fn largest<'a>(&self, of: &'a mut Largest, values: &[f32], at: usize, k: usize) -> (&'a [LatentId], &'a [f32]) {
        let width = self.latents.len();
        of.select(&self.latents, &values[at * width..][..width], k)
    }
}
