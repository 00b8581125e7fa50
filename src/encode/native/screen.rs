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

use crate::encode::native::cpu::Kernel;
use crate::encode::native::model::NativeModel;
use crate::sae::aligned::Aligned;

/// Pairs of dimensions whose products are added in 16 bits before they are shifted.
pub(super) const BLOCK_PAIRS: usize = 16;
/// Latents of a panel: two registers of sums.
pub(super) const PANEL: usize = 32;
/// Rows of a tile in pairs: ten sums, two weights and a row fill the sixteen registers of AVX2.
pub(super) const PAIR_ROWS: usize = 5;
/// Rows of a tile in quads: 24 sums, two weights and a row fit the 32 registers of AVX-512.
pub(super) const QUAD_ROWS: usize = 12;
/// Rows of any tile.
pub(super) const MOST_ROWS: usize = 12;
/// Widest embedding whose sum of quads fits 32 bits whatever its numbers are.
pub(super) const MOST_WIDE: usize = 1 << 16;
/// Largest norm of a latent's weights in a block. With 180 for the row, their product fits 15 bits, and
/// both are rounded about as finely.
const BLOCK_NORM: f64 = 170.0;
/// Largest rounded weight.
const MOST: f64 = 127.0;
/// What is added to a rounded value of a row, so that it has no sign.
pub(super) const OFFSET: i16 = 64;
/// Norms of weights outside this range are left to the full product: products of f32 would leave its range.
const SANE: std::ops::RangeInclusive<f64> = 1e-15..=1e15;
/// Roundings of f64 and f32 in the constants below, far below anything that matters.
const UP: f64 = 1.000_01;

/// How rounded numbers are multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Two dimensions at once, sums of 16 bits: AVX2's `maddubs`.
    Pairs,
    /// Four dimensions at once, sums of 32 bits: VNNI's `dpbusd`.
    Quads,
}

impl Form {
    /// The form a kernel is fast with; any kernel computes both.
    pub(super) fn of(kernel: Kernel) -> Self {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => Self::Quads,
            _ => Self::Pairs,
        }
    }

    /// Dimensions of a group.
    pub(super) fn group(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Quads => 4,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Pairs => PAIR_ROWS,
            Self::Quads => QUAD_ROWS,
        }
    }

    /// Where a panel keeps its latent `latent`. Packing two registers of 32-bit sums into one of 16 takes four
    /// of each in turn; in this order the packed numbers come out in the latents' own.
    pub(super) fn column(self, latent: usize) -> usize {
        match self {
            Self::Pairs => latent,
            Self::Quads => latent % 8 / 4 * (PANEL / 2) + latent / 8 * 4 + latent % 4,
        }
    }

    /// A rounded weight as it is kept.
    fn stored(self, q: f64) -> i8 {
        match self {
            Self::Pairs => small(q),
            // Plus 128 in eight bits: the sign turned round.
            Self::Quads => small(q) ^ i8::MIN,
        }
    }
}

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
    /// Pairs: `-64 sum(q_j)` of each block, modulo 2^16: `[n_blocks, d_sae]`
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
        let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
        let n_groups = d_in / form.group();
        let n_blocks = match form {
            Form::Pairs => n_groups.div_ceil(BLOCK_PAIRS),
            Form::Quads => 1,
        };
        let mut screen = Self {
            form,
            n_groups,
            d_sae,
            shift: n_blocks.next_power_of_two().trailing_zeros(),
            weights: Aligned::zeros(d_sae * d_in),
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
            float_error: 2f64.powi(-24) * (d_in as f64 / 8.0 + 5.0),
            slack: 0,
        };
        screen.weights.fill(form.stored(0.0));
        screen.slack = whole(4.0 + 0.5 * n_blocks as f64 + 32_767.0 * screen.float_error);
        // Thresholds of latents are taken off their biases, so that one bound serves all: `v_j > f_j` is
        // `v_j - (f_j - f) > f` with the floor `f` of all.
        let raised = |latent| f64::from(model.floor_of(latent)) - f64::from(model.floor());
        let biases: Vec<f64> = (0..d_sae).map(|latent| f64::from(model.bias()[latent]) - raised(latent)).collect();
        screen.largest_bias =
            biases.iter().copied().chain(model.bias().iter().map(|bias| (*bias).into())).fold(0.0, |most, b| most.max(b.abs()));
        let steps: Vec<f64> = (0..d_sae).map(|latent| screen.add(latent, model.row(latent))).collect();
        screen.largest_step = steps.iter().copied().fold(0.0, f64::max);
        screen.bias_steps = screen.largest_bias / screen.largest_step * UP;
        for (latent, step) in steps.iter().enumerate() {
            screen.scales[latent] = fraction(step / screen.largest_step);
            screen.biases[latent] = fraction(biases[latent] / screen.largest_bias.max(f64::MIN_POSITIVE));
        }
        let sane = SANE.contains(&screen.largest_step) && screen.largest_bias <= *SANE.end() && screen.ratio_weights.is_finite();
        (sane && d_in <= MOST_WIDE).then_some(screen)
    }

    /// Rounds one latent's weights into their places; returns its step.
    fn add(&mut self, latent: usize, row: &[f32]) -> f64 {
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let w: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
        let most = w.iter().fold(0.0f64, |most, w| most.max(w.abs()));
        let most_in_block = match self.form {
            Form::Pairs => w.chunks(2 * BLOCK_PAIRS).map(norm).fold(0.0, f64::max),
            Form::Quads => 0.0,
        };
        let step = (most / MOST).max(most_in_block / BLOCK_NORM);
        if step == 0.0 {
            return 0.0;
        }
        let q: Vec<f64> = w.iter().map(|w| (w / step).round()).collect();
        let error: Vec<f64> = w.iter().zip(&q).map(|(w, q)| w - step * q).collect();
        self.norm = self.norm.max(norm(&q) * UP);
        self.ratio_weights = self.ratio_weights.max(norm(&w) / step * UP);
        self.ratio_error = self.ratio_error.max(norm(&error) / step * UP);
        if self.form == Form::Pairs {
            for (block, q) in q.chunks(2 * BLOCK_PAIRS).enumerate() {
                self.block_norm = self.block_norm.max(norm(q) * UP);
                self.starts[block * self.d_sae + latent] = wrapped(-f64::from(OFFSET) * q.iter().sum::<f64>());
            }
        }
        let size = self.form.group();
        for (group, q) in q.chunks_exact(size).enumerate() {
            let at = self.place(latent, group);
            for (place, q) in self.weights[at..at + size].iter_mut().zip(q) {
                *place = self.form.stored(*q);
            }
        }
        step
    }

    /// Where a group of a latent's weights begins.
    pub(super) fn place(&self, latent: usize, group: usize) -> usize {
        let (panel, column) = (latent / PANEL, self.form.column(latent % PANEL));
        ((panel * self.n_groups + group) * PANEL + column) * self.form.group()
    }
}

/// A number in -1..=1 in 15 bits.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn fraction(value: f64) -> i16 {
    (value * 32768.0).round().clamp(-32767.0, 32767.0) as i16
}

/// The next whole number.
#[expect(clippy::cast_possible_truncation, reason = "a few units, or as many as i32 holds")]
fn whole(value: f64) -> i32 {
    value.ceil() as i32
}

/// A whole number in -127..=127.
#[expect(clippy::cast_possible_truncation, reason = "clamped to the range")]
fn small(value: f64) -> i8 {
    value.clamp(-MOST, MOST) as i8
}

/// A whole number modulo 2^16.
#[expect(clippy::cast_possible_truncation, reason = "wrapping is what is wanted")]
fn wrapped(value: f64) -> i16 {
    value as i64 as i16
}
