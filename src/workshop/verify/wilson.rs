//! Wilson's interval of a share, and the interval of a mean of two shares.

/// Standard deviations of a 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// A share of cases with its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Share {
    /// Cases that count.
    pub n_right: u64,
    /// All cases.
    pub n: u64,
}

impl Share {
    /// The share; 0 of no cases.
    #[must_use]
    pub fn value(self) -> f64 {
        if self.n == 0 { 0.0 } else { self.n_right as f64 / self.n as f64 }
    }

    /// Wilson's score interval, 95 %; `[0, 1]` of no cases.
    /// `(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)` (Wilson 1927).
    #[must_use]
    pub fn interval(self) -> [f64; 2] {
        if self.n == 0 {
            return [0.0, 1.0];
        }
        let (n, p) = (self.n as f64, self.value());
        let centre = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        [((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0)]
    }
}

/// Balanced accuracy, the mean of the shares told rightly in the two classes, with its 95 % interval: the
/// distances of the shares to their Wilson bounds, added as squares (Newcombe 1998, method 10, for a sum).
#[must_use]
pub fn balanced_accuracy(sensitivity: Share, specificity: Share) -> (f64, [f64; 2]) {
    let mean = f64::midpoint(sensitivity.value(), specificity.value());
    let [a, b] = [sensitivity.interval(), specificity.interval()];
    let half = |at: usize| 0.5 * (sensitivity.value() - a[at]).hypot(specificity.value() - b[at]);
    (mean, [mean - half(0), mean + half(1)])
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_interval_equals_published_digits() {
        // Newcombe 1998, table I: 81 of 263 and 0 of 20, method 3.
        let close = |share: Share, expected: [f64; 2]| {
            let [low, high] = share.interval();
            assert!((low - expected[0]).abs() < 5e-5 && (high - expected[1]).abs() < 5e-5, "{low} {high}");
        };
        close(Share { n_right: 81, n: 263 }, [0.2553, 0.3662]);
        close(Share { n_right: 0, n: 20 }, [0.0, 0.1611]);
        assert_eq!(Share::default().interval(), [0.0, 1.0]);
    }

    #[test]
    fn the_balanced_interval_holds_the_truth_as_often_as_it_says() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for (p, q, n) in [(0.9, 0.7, 50), (0.5, 0.5, 60), (0.98, 0.95, 80)] {
            let draws = 2000;
            let mut share = |p: f64| Share { n_right: (0..n).filter(|_| rng.random_bool(p)).count() as u64, n };
            let holds = (0..draws)
                .filter(|_| {
                    let (_, [low, high]) = balanced_accuracy(share(p), share(q));
                    low <= f64::midpoint(p, q) && f64::midpoint(p, q) <= high
                })
                .count();
            // 95 % less five standard deviations of 2000 draws and a point for being approximate.
            assert!(holds as f64 / f64::from(draws) > 0.95 - 0.025 - 0.01, "{p} {q}: {holds} of {draws}");
        }
    }
}
