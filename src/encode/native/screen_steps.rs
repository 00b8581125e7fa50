//! Steps of the screen that are the same with any instructions, inlined into code for each of them.

/// Bisections of a bound: its distance to the k-th maximum is then below a hundredth of the range, and the margin of
/// a row is larger.
const BISECTIONS: usize = 8;
/// For each of `R` rows of maxima a number that at least `k` of them reach, as large as is cheap to find; 0 where
/// none is found. There is no way out before the last step: whether one comes early is a coin toss to the CPU and
/// costs more than the steps left. Several rows at once, because a step waits for the one before it.
#[inline(always)]
pub(super) fn bisect<const R: usize>(maxima: [&[i16]; R], k: usize, n_reaching: impl Fn(&[i16], i16) -> usize) -> [i16; R] {
    let (mut low, mut high) = ([0; R], [0; R]);
    for row in 0..R {
        for value in maxima[row] {
            high[row] = i16::max(high[row], *value);
        }
    }
    for _ in 0..BISECTIONS {
        for row in 0..R {
            let middle = i16::midpoint(low[row], high[row]);
            let reached = n_reaching(maxima[row], middle) >= k;
            low[row] = if reached { middle } else { low[row] };
            high[row] = if reached { high[row] } else { middle };
        }
    }
    low
}

/// `a b / 2^15`, rounded: what the CPU's instruction of that kind gives.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "only -1 times -1 is too large, and no factor is -1")]
pub(super) fn high_product(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16
}
