//! The sequential test: a Shiryaev-Roberts e-detector per stream with an indifference zone.
//!
//! Four alternatives a stream, "the ratio that 6 (or 20) windows can show" up and down; each window
//! multiplies `R <- (R + 1) L`, and `M`, the mean of the four R, crosses at `A m / w`. Then no more
//! than one window in A is a false alarm, under any dependence between streams and without a fixed
//! horizon; p-values with BH cannot promise that (their ARL is finite whatever the level).
//! Sources: Shin, Ramdas, Rinaldo, E-detectors (NEJSDS, article 59); Dandapanthula, Ramdas, arXiv 2501.04130.
//!
//! R is kept as it is, not as a logarithm: it lies in `[0, (A m/w)^1.5]`, and a step costs one `exp`
//! an alternative instead of an `exp` and a `ln`.

use serde::{Deserialize, Serialize};

use crate::drift::alternatives::{Alternatives, N_ALTERNATIVES, N_PER_SIDE};
use crate::drift::packed;
use crate::drift::report::Direction;

/// A likelihood ratio below e^-60 is as good as 0; the bound keeps R a normal number.
const MIN_LOG_RATIO: f64 = -60.0;
/// Numbers of the run kept a side: Lorden sum, its count and its expectation.
const RUN: usize = 3;

/// The state of the test: all that must survive a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// R of each alternative, `[4 * n]`, stream-major.
    #[serde(with = "packed")]
    r: Vec<f64>,
    /// Lorden sum, sum of Y and sum of mu of the current run, up then down, `[2 * 3 * n]`, stream-major.
    #[serde(with = "packed")]
    runs: Vec<f64>,
    /// Start of the run's first window, ms since 1970, `[2 * n]`;
    /// minus infinity = no run. Exact: |ms| < 2^53.
    #[serde(with = "packed")]
    began_ms: Vec<f64>,
}

/// The current run of a stream on one side: since when, and what was counted and expected since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Start of its first window.
    pub began_ms: i64,
    /// Sum of Y.
    pub count: f64,
    /// Sum of mu.
    pub expected: f64,
}

impl Evidence {
    /// No evidence yet for `n` streams.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { r: vec![0.0; N_ALTERNATIVES * n], runs: vec![0.0; 2 * RUN * n], began_ms: vec![f64::NEG_INFINITY; 2 * n] }
    }

    /// Streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.r.len() / N_ALTERNATIVES
    }

    /// Whether it holds no stream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.r.is_empty()
    }

    /// One window: counts `y` `[n]`, expectations `mu` `[n]`, the window's start. Writes `ln M` `[n]`
    /// into `log_evidence`.
    ///
    /// `ln L = min([Y ln(rho/b) - mu (rho - b)]/phi, ln(A m/w)/2)`, at least -60.
    pub fn step(&mut self, alternatives: &Alternatives, y: &[f64], mu: &[f64], start_ms: i64, log_evidence: &mut Vec<f64>) {
        log_evidence.clear();
        let start = start_ms as f64;
        let streams = self.r.as_chunks_mut::<N_ALTERNATIVES>().0.iter_mut();
        let runs = self.runs.as_chunks_mut::<{ 2 * RUN }>().0.iter_mut();
        let began = self.began_ms.as_chunks_mut::<2>().0.iter_mut();
        for ((((r, runs), began), per_stream), (&y, &mu)) in streams.zip(runs).zip(began).zip(&alternatives.streams).zip(y.iter().zip(mu)) {
            let mut log_ratio = [0.0; N_ALTERNATIVES];
            for k in 0..N_ALTERNATIVES {
                log_ratio[k] = (y * per_stream.per_count[k] - mu * per_stream.per_expected[k]).min(per_stream.cap).max(MIN_LOG_RATIO);
                r[k] = (r[k] + 1.0) * log_ratio[k].exp();
            }
            log_evidence.push((r.iter().sum::<f64>() / N_ALTERNATIVES as f64).ln());
            for side in 0..2 {
                let best = log_ratio[side * N_PER_SIDE..(side + 1) * N_PER_SIDE].iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let run = &mut runs[side * RUN..(side + 1) * RUN];
                if run[0] + best > 0.0 {
                    if began[side] == f64::NEG_INFINITY {
                        began[side] = start;
                    }
                    run[0] += best;
                    run[1] += y;
                    run[2] += mu;
                } else {
                    run.fill(0.0);
                    began[side] = f64::NEG_INFINITY;
                }
            }
        }
    }

    /// Which side holds the larger R.
    #[must_use]
    pub fn direction(&self, stream: usize) -> Direction {
        let r = &self.r[stream * N_ALTERNATIVES..(stream + 1) * N_ALTERNATIVES];
        let largest = |r: &[f64]| r.iter().fold(0.0_f64, |a, &b| a.max(b));
        if largest(&r[..N_PER_SIDE]) >= largest(&r[N_PER_SIDE..]) { Direction::Up } else { Direction::Down }
    }

    /// The current run on a side; `None` where the last window ended it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "stored from an i64 of milliseconds below 2^53")]
    pub fn run(&self, stream: usize, direction: Direction) -> Option<Run> {
        let side = usize::from(direction == Direction::Down);
        let began = self.began_ms[2 * stream + side];
        let run = &self.runs[(2 * stream + side) * RUN..][..RUN];
        began.is_finite().then(|| Run { began_ms: began as i64, count: run[1], expected: run[2] })
    }

    /// Largest Lorden sum of both sides, in nats: how much speaks for a change that is going on.
    #[must_use]
    pub fn run_nats(&self, stream: usize) -> f64 {
        let runs = &self.runs[stream * 2 * RUN..(stream + 1) * 2 * RUN];
        runs[0].max(runs[RUN])
    }

    /// Forgets what a stream has gathered: after a crossing.
    pub fn reset(&mut self, stream: usize) {
        self.r[stream * N_ALTERNATIVES..(stream + 1) * N_ALTERNATIVES].fill(0.0);
        self.runs[stream * 2 * RUN..(stream + 1) * 2 * RUN].fill(0.0);
        self.began_ms[stream * 2..(stream + 1) * 2].fill(f64::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::alternatives::StreamModel;
    use crate::drift::gate::GateRule;

    fn one_stream(mu: f64) -> Alternatives {
        let model = [StreamModel { mean_expected: mu, dispersion: 1.0, effective_count: 336.0 * mu }];
        Alternatives::new(&model, GateRule::new(336.0, 7.0, 0.0, 0.01), &[1000f64.ln()])
    }

    #[test]
    fn a_doubled_count_crosses_within_a_few_windows_and_says_since_when() {
        let (alternatives, mut evidence, mut log_m) = (one_stream(20.0), Evidence::new(1), Vec::new());
        for t in 0..50 {
            evidence.step(&alternatives, &[20.0], &[20.0], t, &mut log_m);
            assert!(log_m[0] < 2.0, "window {t}: {log_m:?}");
        }
        for t in 50..54 {
            evidence.step(&alternatives, &[40.0], &[20.0], t, &mut log_m);
        }
        assert!(log_m[0] > alternatives.streams[0].threshold_log);
        assert_eq!(evidence.direction(0), Direction::Up);
        let run = evidence.run(0, Direction::Up).unwrap();
        assert_eq!((run.began_ms, run.count, run.expected), (50, 160.0, 80.0));
        evidence.reset(0);
        assert_eq!(evidence, Evidence::new(1));
    }

    #[test]
    fn one_window_alone_never_crosses() {
        let (alternatives, mut evidence, mut log_m) = (one_stream(20.0), Evidence::new(1), Vec::new());
        evidence.step(&alternatives, &[1e9], &[20.0], 0, &mut log_m);
        assert!(log_m[0] < alternatives.streams[0].threshold_log);
        evidence.step(&alternatives, &[1e9], &[20.0], 1, &mut log_m);
        assert!(log_m[0].is_finite());
    }
}
