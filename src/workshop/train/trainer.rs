//! One step of training, on any number of threads with the same bits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::sae::wide::Wide;
use crate::workshop::train::adam::AdamStep;
use crate::workshop::train::latents::{self, ByLatent, CHUNK_LATENTS};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::rows::{CHUNK_ROWS, RowChunk, StepConstants};
use crate::workshop::train::state::TrainingState;

/// A run in memory: its state, and buffers that every step uses again.
#[derive(Debug)]
pub struct Trainer {
    recipe: Recipe,
    state: TrainingState,
    threads: usize,
    d_in: usize,
    /// Mean `||x - mean||^2` of the training rows: the V of the loss.
    variance: f64,
    chunks: Vec<RowChunk>,
    centred: Vec<f32>,
    gradients: Vec<f32>,
    terms: ByLatent,
    centring: Vec<f32>,
    dead: Vec<u32>,
    wide: Wide,
}

/// What a step says of its batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepReport {
    /// `sum ||e||^2 / (rows V)`: the loss without its auxiliary part.
    pub loss: f64,
    /// Latents that count as dead.
    pub n_dead: usize,
}

impl Trainer {
    /// Goes on from `state`. `variance > 0`, `threads >= 1`.
    #[must_use]
    pub fn new(recipe: Recipe, state: TrainingState, variance: f64, threads: usize) -> Self {
        let d_in = state.b_dec.weights.len();
        let n_chunks = recipe.batch.div_ceil(CHUNK_ROWS);
        Self {
            chunks: (0..n_chunks).map(|_| RowChunk::new(&recipe, d_in)).collect(),
            centring: vec![0.0; recipe.d_sae.div_ceil(CHUNK_LATENTS) * d_in],
            centred: Vec::new(),
            gradients: Vec::new(),
            terms: ByLatent::default(),
            dead: Vec::new(),
            wide: Wide::detect(),
            recipe,
            state,
            threads,
            d_in,
            variance,
        }
    }

    /// The run as it stands.
    #[must_use]
    pub fn state(&self) -> &TrainingState {
        &self.state
    }

    /// One step on a batch of rows, each of `d_in` values; `n_steps` is the length of the whole run.
    #[expect(clippy::cast_possible_truncation, reason = "factors of f32 gradients, and latents below 2^32")]
    pub fn step<'a>(&mut self, rows: &[&'a [f32]], n_steps: u64) -> StepReport {
        let (recipe, state) = (&self.recipe, &mut self.state);
        let n = rows.len() as f64;
        self.dead.clear();
        self.dead.extend((0u32..).zip(&state.fired_at).filter(|(_, at)| state.rows - **at >= recipe.dead_after).map(|(j, _)| j));
        let scale = (2.0 / (n * self.variance)) as f32;
        // Few dead latents can explain little: their loss counts in proportion.
        let share = (self.dead.len() as f32 / recipe.k_aux as f32).min(1.0);
        let constants = StepConstants {
            dead: &self.dead,
            scale,
            aux_scale: scale * recipe.aux_weight * share * recipe.aux_every as f32,
            aux_every: recipe.aux_every,
        };
        let used = rows.len().div_ceil(CHUNK_ROWS);
        let chunks = &mut self.chunks[..used];
        let (wide, before) = (self.wide, &*state);
        on_threads(self.threads, chunks.iter_mut().zip(rows.chunks(CHUNK_ROWS)), |(chunk, rows)| {
            chunk.fill(rows.iter().copied());
            wide.run(|| chunk.run(before, constants));
        });

        self.centred.clear();
        self.gradients.clear();
        let (mut starts, mut squared_error) = (Vec::with_capacity(used), 0.0);
        for chunk in chunks.iter() {
            starts.push((self.centred.len() / self.d_in, self.gradients.len() / self.d_in));
            self.centred.extend_from_slice(&chunk.centred);
            self.gradients.extend_from_slice(&chunk.gradients);
            squared_error += chunk.squared_error;
        }
        let terms = chunks.iter().zip(&starts).flat_map(|(chunk, (row, gradient_row))| {
            chunk.terms.iter().map(move |t| (t.latent, row + t.row as usize, t.slope, gradient_row + t.gradient_row as usize, t.value))
        });
        self.terms.sort(recipe.d_sae, terms);

        state.rows += rows.len() as u64;
        for chunk in chunks.iter() {
            chunk.fired().for_each(|latent| state.fired_at[latent as usize] = state.rows);
        }
        let adam = AdamStep::new(state.step + 1, recipe.learning_rate_at(state.step, n_steps), recipe.beta2);
        let (terms, centred, gradients) = (&self.terms, &self.centred, &self.gradients);
        on_threads(self.threads, latents::chunks(state, self.d_in, &mut self.centring), |mut chunk| {
            wide.run(|| chunk.run(adam, terms, centred, gradients, &mut Vec::new()));
        });
        self.move_centre(adam, used);
        self.state.step += 1;
        StepReport { loss: squared_error / (n * self.variance), n_dead: self.dead.len() }
    }

    /// `b_dec` is added to every reconstruction and taken from every row before the encoder.
    fn move_centre(&mut self, adam: AdamStep, used: usize) {
        let mut gradient = vec![0f32; self.d_in];
        // The rows' own gradients, without those of the auxiliary loss: `b_dec` is not in it.
        let own_rows = self.chunks[..used].iter().map(|chunk| &chunk.gradients[..chunk.centred.len()]);
        let parts = own_rows.chain([self.centring.as_slice()]).flat_map(|rows| rows.chunks_exact(self.d_in));
        parts.for_each(|row| gradient.iter_mut().zip(row).for_each(|(sum, g)| *sum += g));
        let b_dec = &mut self.state.b_dec;
        adam.update(&mut b_dec.weights, &gradient, &mut b_dec.second);
    }
}

/// Does every piece of work once, on this thread or on several. The order among them is not defined,
/// so that no piece may depend on another.
fn on_threads<W: Send>(threads: usize, work: impl Iterator<Item = W>, run: impl Fn(W) + Sync) {
    if threads <= 1 {
        work.for_each(run);
        return;
    }
    let pieces: Vec<Mutex<Option<W>>> = work.map(|piece| Mutex::new(Some(piece))).collect();
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let piece = piece.lock().unwrap_or_else(PoisonError::into_inner).take();
            piece.into_iter().for_each(&run);
        }
    };
    std::thread::scope(|scope| {
        (1..threads.min(pieces.len())).for_each(|_| drop(scope.spawn(take)));
        take();
    });
}
