//! Which latents of a screened row are computed, and what is selected of them.

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::encode::native::product;
use crate::encode::native::screen::Screen;
use crate::encode::native::screen_kernel::{collect, lane_maxima, n_reaching};
use crate::encode::native::screen_row::TileRow;
use crate::sae::activation::SparseActivations;
use crate::sae::topk::Among;
use crate::sae::topk_bound::n_lanes;
use crate::sae::weights::Selection;

/// Latents a screened row may compute one by one: a share of all, because one alone costs twice what it costs
/// among all, and few at least.
const MOST_SHARE: usize = 8;
/// As many as are always computed one by one.
const FEW: usize = 128;
/// Bisections of the bound: its distance to the k-th maximum is then below a thousandth of the range.
const BISECTIONS: usize = 10;
/// Room that collecting needs beyond what it finds.
const ROOM: usize = 64;

/// What became of the rows so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Rows encoded.
    pub n_rows: u64,
    /// Latents computed one by one, over all screened rows.
    pub n_computed: u64,
    /// Rows computed in full although a screen was there.
    pub n_in_full: u64,
}

/// Selects from screened rows; keeps its memory between them.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    maxima: Vec<i16>,
    promising: Vec<u32>,
    latents: Vec<u32>,
    unknown: Vec<u32>,
    values: Vec<f32>,
    /// Values by latent, of one row while it is chosen from; NaN elsewhere.
    exact: Vec<f32>,
    among: Among,
    pub(super) statistics: Statistics,
}

impl Chooser {
    /// Whether rows of this shape can be screened: a bound needs room below k.
    pub(super) fn can_choose(model: &NativeModel) -> bool {
        match model.spec().selection {
            Selection::TopK(k) => n_lanes(model.padded_sae(), k.get()) > 0,
            Selection::Threshold(_) => true,
        }
    }

    /// Appends the row's selection; `false`, and nothing appended, where it must be computed in full.
    pub(super) fn choose(
        &mut self,
        (kernel, model, screen): Parts<'_>,
        row: &TileRow,
        mid: &[i16],
        y: &[f32],
        activations: &mut SparseActivations,
    ) -> bool {
        if row.unit == 0.0 {
            return false;
        }
        let parts = (kernel, model, screen);
        let most = (mid.len() / MOST_SHARE).max(FEW);
        self.latents.resize(mid.len() + ROOM, 0);
        self.promising.resize(mid.len() + ROOM, 0);
        self.exact.resize(mid.len(), f32::NAN);
        let (mut k, mut n_promising, mut kept) = (model.spec().d_sae.get(), 0, model.floor());
        if let Selection::TopK(top) = model.spec().selection {
            k = top.get();
            self.maxima.resize(n_lanes(mid.len(), k), 0);
            lane_maxima(kernel, mid, &mut self.maxima);
            // The most promising ones first: k of them or more, so that the least of their values bounds the others.
            n_promising = collect(kernel, screen, mid, 0, bisect(kernel, &self.maxima, k), &mut self.promising);
            if n_promising > most {
                return false;
            }
            self.values.clear();
            product::some(kernel, model, &self.promising[..n_promising], y, &mut self.values);
            for (latent, value) in self.promising[..n_promising].iter().zip(&self.values) {
                self.exact[*latent as usize] = *value;
            }
            if n_promising >= k {
                kept = self.values.iter().fold(f32::INFINITY, |least, value| least.min(*value)).max(kept);
            }
        }
        let n = collect(kernel, screen, mid, row.margin, units(kept, row.unit, screen.slack), &mut self.latents);
        if n <= most {
            self.compute_rest(parts, n, y);
            self.among.select(&self.latents[..n], &self.values, k, model.floor());
            self.statistics.n_computed += self.values.len() as u64;
            self.among.append_to(activations);
        }
        for latent in &self.promising[..n_promising] {
            self.exact[*latent as usize] = f32::NAN;
        }
        n <= most
    }

    /// Values of the first `n` latents, those that are known taken from `exact`; NaN there means unknown.
    fn compute_rest(&mut self, (kernel, model, _): Parts<'_>, n: usize, y: &[f32]) {
        self.unknown.resize(n.max(self.unknown.len()), 0);
        let mut n_unknown = 0;
        for latent in &self.latents[..n] {
            self.unknown[n_unknown] = *latent;
            n_unknown += usize::from(self.exact[*latent as usize].is_nan());
        }
        self.values.clear();
        product::some(kernel, model, &self.unknown[..n_unknown], y, &mut self.values);
        for (latent, value) in self.unknown[..n_unknown].iter().zip(&self.values) {
            self.exact[*latent as usize] = *value;
        }
        self.values.clear();
        self.values.extend(self.latents[..n].iter().map(|latent| self.exact[*latent as usize]));
        for latent in &self.unknown[..n_unknown] {
            self.exact[*latent as usize] = f32::NAN;
        }
    }
}

/// What computes: instructions, weights, rounded weights.
type Parts<'a> = (Kernel, &'a NativeModel, &'a Screen);

/// The largest whole number such that what lies below it, slack included, has a value below `value`.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn units(value: f32, unit: f64, slack: i32) -> i16 {
    // One unit more than needed, against the rounding of the division.
    ((f64::from(value) / unit).floor() - f64::from(slack) - 1.0).clamp(-32_768.0, 32_767.0) as i16
}

/// A number that at least `k` of the maxima reach, as large as is cheap to find; 0 where none is found.
fn bisect(kernel: Kernel, maxima: &[i16], k: usize) -> i16 {
    let (mut low, mut high) = (0, maxima.iter().copied().max().unwrap_or(0));
    for _ in 0..BISECTIONS {
        let middle = i16::midpoint(low, high);
        let n = n_reaching(kernel, maxima, middle);
        if n < k {
            high = middle;
        } else {
            low = middle;
            if n <= k + k / 8 {
                break;
            }
        }
    }
    low
}
