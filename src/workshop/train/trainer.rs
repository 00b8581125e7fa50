//! One step of training, on any number of threads with the same bits.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::encode::native::{Kernel, LiveModel};
use crate::sae::weights::{SaeSpec, Selection};
use crate::sae::wide::{Wide, Work};
use crate::workshop::train::adam::AdamStep;
use crate::workshop::train::asleep::Asleep;
use crate::workshop::train::dots::Dots;
use crate::workshop::train::latents::{self, ByLatent, CHUNK_LATENTS, LatentChunk};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::rows::{CHUNK_ROWS, RowChunk, Rows, Step};
use crate::workshop::train::state::TrainingState;

/// A run in memory: its state, and buffers that every step uses again.
#[derive(Debug)]
pub struct Trainer {
    recipe: Recipe,
    /// All but the encoder's weights, which are the live model's.
    state: TrainingState,
    live: LiveModel,
    threads: usize,
    d_in: usize,
    /// Mean `||x - mean||^2` of the training rows: the V of the loss.
    variance: f64,
    chunks: Vec<RowChunk>,
    centred: Vec<f32>,
    gradients: Vec<f32>,
    by_latent: ByLatent,
    centring: Vec<f32>,
    asleep: Asleep,
    dots: Dots,
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
        Self::with_kernel(recipe, state, variance, threads, (Kernel::best(), Wide::detect()))
    }

    /// The same with given instructions: every kernel gives the same bits.
    fn with_kernel(recipe: Recipe, state: TrainingState, variance: f64, threads: usize, (kernel, wide): (Kernel, Wide)) -> Self {
        let size = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        let d_in = state.b_dec.weights.len();
        let spec = SaeSpec { d_in: size(d_in), d_sae: size(recipe.d_sae), selection: Selection::TopK(size(recipe.k)), centring: false };
        let n_chunks = recipe.batch.div_ceil(CHUNK_ROWS);
        let mut live = LiveModel::new(spec, kernel);
        let centring = vec![0.0; recipe.d_sae.div_ceil(CHUNK_LATENTS) * d_in];
        latents::show(&state, &mut live);
        Self {
            chunks: (0..n_chunks).map(|_| RowChunk::new(spec, recipe.k_aux, kernel)).collect(),
            centred: vec![0.0; n_chunks * CHUNK_ROWS * d_in],
            gradients: vec![0.0; n_chunks * 2 * CHUNK_ROWS * d_in],
            by_latent: ByLatent::default(),
            asleep: Asleep::default(),
            dots: Dots::of(kernel, d_in),
            centring,
            live,
            wide,
            recipe,
            state,
            threads,
            d_in,
            variance,
        }
    }

    /// The run as it stands.
    pub fn state(&mut self) -> &TrainingState {
        latents::take(&mut self.state, &self.live);
        &self.state
    }

    /// Steps done, and rows seen in them.
    #[must_use]
    pub fn done(&self) -> (u64, u64) {
        (self.state.step, self.state.rows)
    }

    /// One step on a batch of rows, each of `d_in` values; `n_steps` is the length of the whole run.
    #[expect(clippy::cast_possible_truncation, reason = "factors of f32 gradients, and rows of a batch below 2^32")]
    pub fn step(&mut self, rows: &[&[f32]], n_steps: u64) -> StepReport {
        let (recipe, state, d) = (&self.recipe, &mut self.state, self.d_in);
        let n = rows.len() as f64;
        self.asleep.collect(state, &self.live, recipe.dead_after);
        let n_dead = self.asleep.n();
        let scale = (2.0 / (n * self.variance)) as f32;
        // Few dead latents can explain little: their loss counts in proportion.
        let share = (n_dead as f32 / recipe.k_aux as f32).min(1.0);
        let step = Step {
            state,
            live: &self.live,
            asleep: &self.asleep,
            scale,
            aux_scale: scale * recipe.aux_weight * share * recipe.aux_every as f32,
            aux_every: recipe.aux_every,
        };
        let (wide, dots) = (self.wide, self.dots);
        let chunks = &mut self.chunks[..rows.len().div_ceil(CHUNK_ROWS)];
        let places = self.centred[..rows.len() * d].chunks_mut(CHUNK_ROWS * d).zip(self.gradients.chunks_mut(2 * CHUNK_ROWS * d));
        let work = chunks.iter_mut().zip(rows.chunks(CHUNK_ROWS)).zip(places).enumerate();
        on_threads(self.threads, work, |(at, ((chunk, rows), (centred, gradients)))| {
            let rows = Rows { rows, first: (at * CHUNK_ROWS) as u32, centred, gradients };
            wide.run(RowWork { chunk, step, rows });
        });
        let squared_error: f64 = chunks.iter().map(|chunk| chunk.squared_error).sum();
        self.by_latent.sort(recipe.d_sae, chunks.iter().map(|chunk| chunk.shares.as_slice()));

        state.rows += rows.len() as u64;
        for chunk in chunks.iter() {
            let active = chunk.active();
            for latent in (0..active.n_rows()).flat_map(|row| active.row(row).0) {
                state.fired_at[latent.index()] = state.rows;
            }
        }
        let step = state.step + 1;
        let adam = AdamStep::new(step, recipe.learning_rate_at(state.step, n_steps), recipe.beta2);
        let (by_latent, centred, gradients) = (&self.by_latent, &self.centred, &self.gradients);
        on_threads(self.threads, latents::chunks(state, &mut self.live, d, &mut self.centring), |mut chunk| {
            wide.run(LatentWork { chunk: &mut chunk, dots, step: (step, adam), by_latent, centred, gradients });
        });
        self.live.settle();
        // `b_dec` is added to every reconstruction and taken from every row before the encoder. The rows' own
        // gradients, without those of the auxiliary loss: `b_dec` is not in it.
        let mut gradient = vec![0f32; d];
        let parts = chunks.iter().map(|chunk| chunk.gradient_sum.as_slice()).chain(self.centring.chunks_exact(d));
        parts.for_each(|part| gradient.iter_mut().zip(part).for_each(|(sum, g)| *sum += g));
        adam.update(&mut state.b_dec.weights, &gradient, &mut state.b_dec.second);
        state.step += 1;
        StepReport { loss: squared_error / (n * self.variance), n_dead }
    }
}

/// The rows of a chunk.
struct RowWork<'a> {
    chunk: &'a mut RowChunk,
    step: Step<'a>,
    rows: Rows<'a>,
}

impl Work for RowWork<'_> {
    type Done = ();

    #[inline(always)]
    fn run(self) {
        self.chunk.run(self.step, self.rows);
    }
}

/// The latents of a chunk.
struct LatentWork<'a, 'chunk> {
    chunk: &'a mut LatentChunk<'chunk>,
    dots: Dots,
    step: (u64, AdamStep),
    by_latent: &'a ByLatent,
    centred: &'a [f32],
    gradients: &'a [f32],
}

impl Work for LatentWork<'_, '_> {
    type Done = ();

    #[inline(always)]
    fn run(self) {
        self.chunk.run(self.dots, self.step, self.by_latent, (self.centred, self.gradients));
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

#[cfg(test)]
mod tests;
