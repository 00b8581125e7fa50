//! How strong latents are where they are active: the units that amounts of edits are measured in.

/// How strong a latent is where it is active: what amounts are measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strength {
    /// Rows it was active in.
    pub n: usize,
    /// 99th percentile of its values there; 0 for a latent that was never active.
    pub p99: f32,
    /// Standard deviation of its values there.
    pub sd: f32,
}

impl Strength {
    /// Of the values of a latent where it was active.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among n values; strengths are f32")]
    pub fn of(mut values: Vec<f32>) -> Self {
        let n = values.len();
        if n == 0 {
            return Self::default();
        }
        values.sort_by(f32::total_cmp);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n as f64;
        let at = ((n - 1) as f64 * 0.99).round() as usize;
        Self { n, p99: values[at], sd: variance.sqrt() as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_are_the_percentile_and_the_deviation_by_hand() {
        // 1 to 101: the 99th percentile is the hundredth of 101 values, the variance (101^2 - 1) / 12.
        let of = Strength::of((1..=101u8).rev().map(f32::from).collect());
        assert_eq!((of.n, of.p99), (101, 100.0));
        assert!((f64::from(of.sd) - ((101.0f64 * 101.0 - 1.0) / 12.0).sqrt()).abs() < 1e-5, "{of:?}");
        assert_eq!(Strength::of(vec![0.25]), Strength { n: 1, p99: 0.25, sd: 0.0 });
        assert_eq!(Strength::of(Vec::new()), Strength::default());
    }
}
