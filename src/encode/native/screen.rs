//! The exact screen: upper bounds of all values from small integers, so that few are computed in f32.
//!
//! **What is kept.** Each latent's weights are rounded to `q_j` in -127..=127 with a step `s_j` of its own,
//! each row's centred embedding `y = x - c` to `p` with a step `t`. Two forms, after the CPU's instructions:
//!
//! | [`Form`] | multiplied at once | `p` | summed in | `h` |
//! |---|---|---|---|---|
//! | `Pairs` (AVX2) | 32 products, 2 a sum | -63..=63 | blocks of 64 in 16 bits, then 16 bits | the model's |
//! | `Quads` (VNNI) | 64 products, 4 a sum | -127..=127 | 32 bits | the row's own |
//!
//! **The sum `P = p . q_j` is exact.** The instructions multiply numbers without a sign by numbers with one.
//! In pairs `p` is handed over as `p + 64`, and `-64 sum(q_j)` is what the sum starts from. Sums wrap modulo
//! 2^16, which does no harm where the true sum of a block fits: `|p_B . q_jB| <= ||p_B|| max_j ||q_jB|| <= 32767`
//! is checked for every row; a product of a pair is at most `2 x 127 x 127 < 2^15`, so it never saturates.
//! In quads `q_j` is handed over as `q_j + 128`, and `-128 sum(p)` is the start; `255 x 127 d < 2^31` up to
//! [`MOST_WIDE`] dimensions. Sums (pairs: of each block) are shifted right by `h` bits and rounded.
//!
//! **The bound.** Let `v_j = fl(w_j . y + b_j)` be the engine's value (`native::dot`), and
//!
//! ```text
//! ex = ||y - t p||      Rw = max_j ||w_j|| / s_j      Re = max_j ||w_j - s_j q_j|| / s_j
//!
//! w_j . y = t s_j P + w_j . (y - t p) + t p . (w_j - s_j q_j)                         (an identity)
//! |w_j . y - t s_j P| <= ex ||w_j|| + t ||p|| ||w_j - s_j q_j||                       (Cauchy-Schwarz)
//!                     <= s_j (ex Rw + t ||p|| Re)
//! |v_j - (w_j . y + b_j)| <= 2^-24 (d/8 + 5) (||w_j|| ||y|| + |b_j|)                  (native::dot)
//! ```
//!
//! In units of `u = t S 2^h` with `S = max_j s_j`, and with the scalar of a row
//!
//! ```text
//! E = (ex Rw + t ||p|| Re + 2^-24 (d/8 + 5) ||y|| Rw) / (t 2^h),   rounded up,
//! mid_j = round((P / 2^h) s_j / S) + round(b_j / u)               in 16 bits,
//! up_j  = mid_j + round(E s_j / S),
//! v_j / u <= up_j + SLACK                                          for every j.
//! ```
//!
//! `SLACK` pays for the roundings in units: 1/2 a block (quads: once) for the shift; 1 for `s_j / S` in 15 bits
//! (1/2, or 32767 standing for 32768) and 1/2 for each product with it; 1 for `b_j / max |b|` in 15 bits, 1/2 for
//! its factor and 1/2 for that product; and the share of the bias in the third line. Nothing overflows:
//! `||p|| max_j ||q_j|| / 2^h + E + max_j |b_j| / u <= 32700` is checked for every row.
//!
//! **What follows.** A latent whose `up_j + SLACK` lies below the k-th largest of some values cannot be among the
//! k largest, not even as a tie. The third line holds in both directions, so where k estimates reach a number `r`,
//! k values reach `r - E - SLACK`. So: compute the latents whose `up_j` reaches `r - E - 2 SLACK`, all at once.
//! Where these are many, because the margin is wide: compute those whose `mid_j` reaches `r` first, with the engine's
//! own dot product; then those whose `up_j` reaches the least of these values, which is closer. A row that fails a
//! check, or keeps too many, is computed in full.
//!
//! Rejected: eight bits for `x` in pairs (saturates in AVX2), one bound a latent (`Rw` and `Re` are nearly the
//! same for all, because `s_j` follows the norm), PCA and error-feedback rounding (gain nothing).

use crate::encode::native::model::NativeModel;
use crate::encode::native::screen_latent::{LatentFacts, Places, ROUNDER};
use crate::sae::aligned::Aligned;

pub(super) use crate::encode::native::screen_form::{BLOCK_PAIRS, Form, MOST_ROWS, OFFSET, PAIR_ROWS, PANEL, QUAD_ROWS};

/// Widest embedding whose sum of quads fits 32 bits whatever its numbers are.
const MOST_WIDE: usize = 1 << 16;
/// Norms of weights outside this range are left to the full product: products of f32 would leave its range.
const SANE: std::ops::RangeInclusive<f64> = 1e-15..=1e15;
/// Biases that are all below it come to nothing beside the smallest step.
const NO_BIAS: f64 = 1e-30;
/// Roundings of f64 and f32 in the constants below, far below anything that matters.
const UP: f64 = 1.000_01;

/// The rounded weights and what the bound needs to know of them.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    /// How they are multiplied.
    pub(super) form: Form,
    /// Pairs or quads of dimensions.
    pub(super) n_groups: usize,
    /// Latents, padded.
    pub(super) d_sae: usize,
    /// Pairs: bits a block's sum is shifted right by, `h`.
    pub(super) shift: u32,
    /// `[d_sae / PANEL, n_groups, PANEL, 2 or 4]`; quads: the bits of `q_j + 128`.
    pub(super) weights: Aligned<i8>,
    /// Pairs: `-64 sum(q_j)` of each block, modulo 2^16: `[d_sae / PANEL, n_blocks, PANEL]`
    pub(super) starts: Vec<i16>,
    /// `s_j / S` in 15 bits: `[d_sae]`
    pub(super) scales: Aligned<i16>,
    /// `b_j / max |b|` in 15 bits: `[d_sae]`
    pub(super) biases: Aligned<i16>,
    /// `S`
    pub(super) largest_step: f64,
    /// `max |b_j|`
    pub(super) largest_bias: f64,
    /// `max |b_j| / S`
    pub(super) bias_steps: f64,
    /// Pairs: `max ||q_jB||` over latents and blocks.
    pub(super) block_norm: f64,
    /// `max ||q_j||`
    pub(super) norm: f64,
    /// `Rw`
    pub(super) ratio_weights: f64,
    /// `Re`
    pub(super) ratio_error: f64,
    /// `2^-24 (d/8 + 5)`
    pub(super) float_error: f64,
    /// `SLACK`
    pub(super) slack: i32,
}

impl Screen {
    /// The screen of a model; `None` where its norms or its width are beyond reason.
    pub(super) fn new(model: &NativeModel, form: Form) -> Option<Self> {
        let mut screen = Self::empty(model, form);
        let mut places = screen.places();
        let facts: Vec<LatentFacts> = (0..model.padded_sae()).map(|latent| places.set(latent, model.row(latent))).collect();
        // Thresholds of latents are taken off their biases, so that one bound serves all: `v_j > f_j` is
        // `v_j - (f_j - f) > f` with the floor `f` of all.
        let raised = |latent: usize| f64::from(model.floor_of(latent)) - f64::from(model.floor());
        let biases: Vec<f32> = (0..model.padded_sae()).map(|latent| to_f32(f64::from(model.bias()[latent]) - raised(latent))).collect();
        let largest_bias = model.bias().iter().fold(0.0f32, |most, b| most.max(b.abs()));
        screen.settle(&facts, &biases, largest_bias).then_some(screen)
    }

    /// The screen of a model of this shape whose weights are all zero.
    pub(super) fn empty(model: &NativeModel, form: Form) -> Self {
        let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
        let n_groups = d_in / form.group();
        let n_blocks = match form {
            Form::Pairs => n_groups.div_ceil(BLOCK_PAIRS),
            Form::Quads => 1,
        };
        let float_error = 2f64.powi(-24) * (d_in as f64 / 8.0 + 5.0);
        let mut weights = Aligned::zeros(d_sae * d_in);
        weights.fill(if form == Form::Quads { i8::MIN } else { 0 });
        Self {
            form,
            n_groups,
            d_sae,
            shift: n_blocks.next_power_of_two().trailing_zeros(),
            weights,
            starts: if form == Form::Pairs { vec![0; n_blocks * d_sae] } else { Vec::new() },
            scales: Aligned::zeros(d_sae),
            biases: Aligned::zeros(d_sae),
            largest_step: 0.0,
            largest_bias: 0.0,
            bias_steps: 0.0,
            block_norm: 0.0,
            norm: 0.0,
            ratio_weights: 0.0,
            ratio_error: 0.0,
            float_error,
            slack: whole(4.0 + 0.5 * n_blocks as f64 + 32_767.0 * float_error),
        }
    }

    /// Where all latents keep their rounded weights.
    pub(super) fn places(&mut self) -> Places<'_> {
        Places { form: self.form, n_groups: self.n_groups, weights: &mut self.weights, starts: &mut self.starts }
    }

    /// Takes what rounding the latents came to, and the biases of all, none beyond `largest_bias` but by what is
    /// raised. `false` where norms or the width are beyond reason.
    #[inline(always)]
    pub(super) fn settle(&mut self, facts: &[LatentFacts], biases: &[f32], largest_bias: f32) -> bool {
        let (mut step, mut squares, mut block_square, mut bias) = (0f32, [0f32; 3], 0f32, largest_bias);
        for latent in facts {
            step = if latent.step > step { latent.step } else { step };
            block_square = if latent.block_square > block_square { latent.block_square } else { block_square };
            for (most, square) in squares.iter_mut().zip(latent.squares) {
                *most = if square > *most { square } else { *most };
            }
        }
        for value in biases {
            bias = if value.abs() > bias { value.abs() } else { bias };
        }
        // Sums of squares in f32, sixteen apart.
        let up = 1.0 + 2f64.powi(-22) * (self.n_groups as f64 + 16.0);
        let [weights, error, norm] = squares.map(|square| f64::from(square).sqrt() * up);
        self.ratio_weights = weights;
        // `v` itself is rounded, and so is the inverse of the step in it.
        self.ratio_error = error + weights * 2f64.powi(-21);
        self.norm = norm;
        self.block_norm = f64::from(block_square).sqrt() * up;
        self.largest_step = step.into();
        // The biases were rounded to f32 where thresholds were taken off.
        self.largest_bias = f64::from(bias) * UP;
        self.bias_steps = self.largest_bias / self.largest_step * UP;
        let (per_step, per_bias) = (to_f32(32_768.0 / self.largest_step), to_f32(32_768.0 / self.largest_bias.max(NO_BIAS)));
        for ((scale, latent), (place, bias)) in self.scales.iter_mut().zip(facts).zip(self.biases.iter_mut().zip(biases)) {
            *scale = fraction(latent.step * per_step);
            *place = fraction(bias * per_bias);
        }
        let sane = SANE.contains(&self.largest_step) && self.largest_bias <= *SANE.end() && self.ratio_weights.is_finite();
        sane && self.n_groups * self.form.group() <= MOST_WIDE
    }

    /// Where a group of a latent's weights begins.
    pub(super) fn place(&self, latent: usize, group: usize) -> usize {
        let (panel, column) = (latent / PANEL, self.form.column(latent % PANEL));
        ((panel * self.n_groups + group) * PANEL + column) * self.form.group()
    }
}

/// A number of at most 32,768 as 15 bits and a sign.
#[inline(always)]
fn fraction(value: f32) -> i16 {
    let value = if value > 32_767.0 { 32_767.0 } else { value };
    let value = if value > -32_767.0 { value } else { -32_767.0 };
    ((value + ROUNDER).to_bits() & 0xffff) as u16 as i16
}

/// The next whole number.
#[expect(clippy::cast_possible_truncation, reason = "a few units, or as many as i32 holds")]
fn whole(value: f64) -> i32 {
    value.ceil() as i32
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
fn to_f32(value: f64) -> f32 {
    value as f32
}
