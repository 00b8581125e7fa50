//! Which latents of a screened row are computed, and what is selected of them.
//!
//! Each step is taken for all rows of a tile before the next one: the CPU then works at several rows at once,
//! where one row's steps would wait for each other.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::product;
use crate::encode::native::screen::Screen;
use crate::encode::native::screen_kernel::{Parts, bisect, collect, lane_maxima};
use crate::encode::native::screen_row::TileRow;
#[cfg(target_arch = "x86_64")]
use crate::encode::native::select_avx512::{self, Selected};
use crate::sae::activation::SparseActivations;
use crate::sae::topk::Among;
use crate::sae::topk_bound::n_lanes;
use crate::sae::weights::Selection;

/// Latents a screened row may compute one by one: a share of all, because one alone costs twice what it costs
/// among all, and few at least.
const MOST_SHARE: usize = 8;
/// As many as are always computed one by one.
const FEW: usize = 128;
/// Latents, in k, up to which a row is content with what estimates say of the k-th value. Where more may reach it, as
/// in wide embeddings, k of them are computed first, which bounds it closer.
const MANY: usize = 4;
/// Room that collecting needs beyond what is kept: it stops behind the word of 64 latents that is one too many.
const ROOM: usize = 128;

/// What became of the rows so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Rows screened.
    pub n_rows: u64,
    /// Latents computed one by one, over all screened rows.
    pub n_computed: u64,
    /// Rows computed in full although a screen was there.
    pub n_in_full: u64,
}

/// Selects from screened rows; keeps its memory between them.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    rows: Vec<Row>,
    /// `[rows, lanes]`
    maxima: Vec<i16>,
    /// What of a row reaches the first bound, and its values.
    promising: Vec<u32>,
    promising_values: Vec<f32>,
    /// `[rows, room]`: what reaches the second bound, and its values.
    latents: Vec<u32>,
    values: Vec<f32>,
    bounds: Vec<i16>,
    #[cfg(target_arch = "x86_64")]
    selected: Selected,
    among: Among,
    /// Whether the estimates themselves choose what is computed.
    by_estimates: bool,
    pub(super) statistics: Statistics,
}

/// Where a row of the tile stands.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    in_full: bool,
    /// An estimate that k latents or more reach, where one above 0 was found.
    bound: Option<i16>,
    /// Latents whose value may reach the selection.
    n: usize,
}

impl Chooser {
    /// One that computes the latents of the largest estimates, k and a few more, and selects among these. What it passes
    /// over for them is larger by a row's rounding at most.
    pub(super) fn by_estimates() -> Self {
        Self { by_estimates: true, ..Self::default() }
    }

    /// Whether rows of this shape can be screened: a bound needs room below k.
    pub(super) fn can_choose(model: &NativeModel) -> bool {
        match model.spec().selection {
            // What the most promising latents come to bounds the others only where none of them can be silenced.
            Selection::TopK(k) => !model.is_gated() && n_lanes(model.padded_sae(), k.get()) > 0,
            Selection::Threshold(_) => true,
        }
    }

    /// Looks at the rows of a tile, `mid [n, padded_sae]` and `ys [n, padded_in]`. [`Self::append`] then gives
    /// their selections one after the other.
    pub(super) fn look(&mut self, parts: Parts<'_>, tile: &[TileRow], mid: &[i16], ys: &[f32]) {
        let (kernel, model, screen) = parts;
        let room = room(screen);
        self.latents.resize(tile.len() * room, 0);
        self.values.resize(tile.len() * room, 0.0);
        self.promising_values.resize(room, 0.0);
        self.rows.clear();
        self.rows.extend(tile.iter().map(|tile| Row { in_full: tile.unit == 0.0, ..Row::default() }));
        let k = match model.spec().selection {
            Selection::TopK(k) => {
                self.bound(parts, k.get(), mid);
                k.get()
            }
            Selection::Threshold(_) => usize::MAX,
        };
        let mut mids = mid.chunks_exact(screen.d_sae).zip(ys.chunks_exact(model.padded_in()));
        for (at, tile) in tile.iter().enumerate() {
            let Some((mid, y)) = mids.next() else { return };
            if self.rows[at].in_full {
                continue;
            }
            let floor = units(model.floor(), tile.unit, screen.slack);
            let bound = self.rows[at].bound.map_or(floor, |bound| below(bound, tile.margin, screen.slack).max(floor));
            let latents = &mut self.latents[at * room..(at + 1) * room];
            if self.by_estimates {
                let n = collect(kernel, screen, mid, 0, self.rows[at].bound.unwrap_or(0), latents);
                (self.rows[at].n, self.rows[at].in_full) = (n, n > most(screen));
                continue;
            }
            let mut n = collect(kernel, screen, mid, tile.margin, bound, latents);
            if n > MANY.saturating_mul(k)
                && let Some(kept) = self.rows[at].bound.and_then(|bound| self.promise(parts, (k, bound), mid, y))
            {
                n = collect(
                    kernel,
                    screen,
                    mid,
                    tile.margin,
                    units(kept, tile.unit, screen.slack).max(bound),
                    &mut self.latents[at * room..(at + 1) * room],
                );
            }
            self.rows[at].n = n;
            self.rows[at].in_full = n > most(screen);
        }
        self.compute(parts, ys);
    }

    /// Computes what is left of each row, of all rows before anything is selected of one.
    fn compute(&mut self, (kernel, model, screen): Parts<'_>, ys: &[f32]) {
        let places = self.latents.chunks_exact(room(screen)).zip(self.values.chunks_exact_mut(room(screen)));
        for ((row, y), (latents, values)) in self.rows.iter().zip(ys.chunks_exact(model.padded_in())).zip(places) {
            if !row.in_full {
                product::some(kernel, model, &latents[..row.n], y, values);
                model.gate(latents[..row.n].iter().map(|latent| *latent as usize), values);
            }
        }
    }

    /// Bounds the k-th largest estimate of each row from below.
    fn bound(&mut self, (kernel, model, screen): Parts<'_>, k: usize, mid: &[i16]) {
        let n_lanes = n_lanes(model.padded_sae(), k);
        self.maxima.resize(self.rows.len() * n_lanes, 0);
        self.bounds.resize(self.rows.len(), 0);
        for (mid, maxima) in mid.chunks_exact(screen.d_sae).zip(self.maxima.chunks_exact_mut(n_lanes)) {
            lane_maxima(kernel, mid, maxima);
        }
        bisect(kernel, &self.maxima, n_lanes, k, &mut self.bounds);
        for (row, bound) in self.rows.iter_mut().zip(&self.bounds) {
            row.bound = Some(*bound).filter(|bound| *bound > 0);
        }
    }

    /// Computes the most promising latents of a row, those whose estimate reaches the bound: the least value of these
    /// k or more, below which nothing is selected. `None` where there are too many.
    fn promise(&mut self, (kernel, model, screen): Parts<'_>, (k, bound): (usize, i16), mid: &[i16], y: &[f32]) -> Option<f32> {
        self.promising.resize(room(screen), 0);
        let n = collect(kernel, screen, mid, 0, bound, &mut self.promising);
        if n < k || n > most(screen) {
            return None;
        }
        product::some(kernel, model, &self.promising[..n], y, &mut self.promising_values);
        let mut least = f32::INFINITY;
        for value in &self.promising_values[..n] {
            least = if *value < least { *value } else { least };
        }
        Some(least.max(model.floor()))
    }

    /// Appends the selection of row `at` of the tile; `false`, and nothing appended, where it must be computed in full.
    pub(super) fn append(&mut self, (kernel, model, screen): Parts<'_>, at: usize, activations: &mut SparseActivations) -> bool {
        let Row { in_full, n, .. } = self.rows[at];
        self.statistics.n_rows += 1;
        if in_full {
            self.statistics.n_in_full += 1;
            return false;
        }
        let first = at * room(screen);
        self.statistics.n_computed += n as u64;
        let k = match model.spec().selection {
            Selection::TopK(k) => k.get(),
            Selection::Threshold(_) => n,
        };
        #[cfg(target_arch = "x86_64")]
        if let Kernel::Avx512(proof) = kernel {
            let padded = n.next_multiple_of(select_avx512::WIDTH);
            self.values[first + n..first + padded].fill(f32::NEG_INFINITY);
            let (latents, values) = (&self.latents[first..first + padded], &self.values[first..first + padded]);
            if self.selected.select(proof, latents, values, k, model.floor()) {
                let (latents, values) = self.selected.parts();
                activations.push_row(latents, values);
                return true;
            }
        }
        self.among.select(&self.latents[first..first + n], &self.values[first..first + n], k, model.floor());
        self.among.append_to(activations);
        true
    }
}

/// Latents of a row that may be computed one by one.
fn most(screen: &Screen) -> usize {
    (screen.d_sae / MOST_SHARE).max(FEW)
}

/// Places a row has for latents and their values.
fn room(screen: &Screen) -> usize {
    most(screen) + ROOM.max(product::ROOM)
}

/// What lies below it, margin and slack included, has a value below those of all latents whose estimate reaches `bound`:
/// their values lie no more than a margin and the slack below it, as no value lies more above its estimate.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn below(bound: i16, margin: i16, slack: i32) -> i16 {
    (i32::from(bound) - i32::from(margin) - 2 * slack).clamp(-32_768, 32_767) as i16
}

/// The largest whole number such that what lies below it, slack included, has a value below `value`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn units(value: f32, unit: f64, slack: i32) -> i16 {
    // One unit more than needed, against the rounding of the division.
    ((f64::from(value) / unit).floor() - f64::from(slack) - 1.0).clamp(-32_768.0, 32_767.0) as i16
}
