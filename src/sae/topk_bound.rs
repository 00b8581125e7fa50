//! A lower bound of the k-th largest value of a row, from the maxima of its lanes: step 2 of `sae::topk`,
//! for both of its paths.

/// Lanes for small k. Fewer lanes give a looser bound, more cost more in the bisection.
const LANES: usize = 128;
/// Lanes for k above 64: a bound needs at least k maxima, and stays tight from about 2k on.
const WIDE_LANES: usize = 1024;
/// Bisections of the bound. Each halves its distance to the k-th maximum; past ten the candidates
/// saved cost less than the step.
const BISECTIONS: usize = 10;

/// Lanes whose maxima bound the k-th largest of a row of `d_sae`; 0 where no bound is worth its cost.
pub(crate) fn n_lanes(d_sae: usize, k: usize) -> usize {
    let pays = |lanes: usize| k <= lanes / 2 && d_sae >= 2 * lanes;
    [LANES, WIDE_LANES].into_iter().find(|lanes| pays(*lanes)).unwrap_or(0)
}

/// A value that at least `k` of the `maxima` reach, as large as is cheap to find; 0 where none is found.
#[inline(always)]
pub(super) fn bisect(maxima: &[f32], k: usize, n_reaching: impl Fn(&[f32], f32) -> usize) -> f32 {
    let (mut low, mut high) = (0.0, maxima.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a }));
    for _ in 0..BISECTIONS {
        let middle = low + (high - low) * 0.5;
        let n = n_reaching(maxima, middle);
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

/// How many values reach `bound`.
#[inline(always)]
pub(super) fn n_reaching(values: &[f32], bound: f32) -> usize {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0u32; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += u32::from(*value >= bound);
        }
    }
    let rest = rest.iter().filter(|value| **value >= bound).count();
    lanes.iter().sum::<u32>() as usize + rest
}
