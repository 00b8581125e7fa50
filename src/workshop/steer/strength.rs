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
