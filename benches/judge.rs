//! CPU time of one judge step: a window of 1,024 latents and one pseudo-stream, 12 session-length buckets;
//! wants <= 150 us. Also how long a year of hourly windows takes.
//!
//! `cargo bench --bench judge`. Thread CPU time, because a shared machine's clock tells little.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "what a benchmark is for")]

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recsae::drift::closed::ALL;
use recsae::drift::counts::N_BUCKETS;
use recsae::drift::judge::ModelJudge;
use recsae::drift::observed::{Observed, ObservedWindow};
use recsae::drift::reference::Reference;
use recsae::drift::settings::JudgeSettings;

const M: usize = 1024;
const HOUR: i64 = 3_600_000;
const REFERENCE: i64 = 336;
const JUDGED: i64 = 8760;

fn main() {
    let mut rng = StdRng::seed_from_u64(1);
    let settings = JudgeSettings { weekend: Some(false), ..JudgeSettings::hourly(M) };
    let rates: Vec<f64> = (0..M).map(|j| 600.0 / (j as f64 + 10.0).powf(0.8)).collect();
    let reference: Vec<_> = (0..REFERENCE).map(|t| window(t, &rates, true, &mut rng)).collect();
    let reference = Arc::new(Reference::fit_observed("bench", "", &reference, &settings).unwrap());
    let mut judge = ModelJudge::new(reference, settings).unwrap();
    let windows: Vec<_> = (REFERENCE..REFERENCE + 500).map(|t| window(t, &rates, false, &mut rng)).collect();
    let (mut whole, mut alarms) = (Duration::ZERO, 0);
    for t in REFERENCE..REFERENCE + JUDGED {
        let mut window = windows[usize::try_from(t - REFERENCE).unwrap() % windows.len()].clone();
        (window.start_ms, window.end_ms) = (t * HOUR, (t + 1) * HOUR);
        let started = thread_cpu();
        let report = judge.judge_observed(&window);
        // The clock moves by the kernel's tick: only the sum over the year tells something.
        whole += thread_cpu() - started;
        alarms += report.changes.len();
    }
    println!(
        "{} streams: {:.0} us CPU a window; a year of hourly windows {:.1} s; {alarms} changes of alerts",
        judge.streams_tested(),
        whole.as_secs_f64() * 1e6 / JUDGED as f64,
        whole.as_secs_f64()
    );
}

fn window(t: i64, rates: &[f64], tables: bool, rng: &mut StdRng) -> ObservedWindow {
    let mut all = Observed {
        records: 5000.0,
        kish_exposure: 4000.0,
        residual_outlier: Some(200.0 + rng.random_range(-20.0..20.0)),
        ..Observed::default()
    };
    let shape = [300.0, 250.0, 200.0, 150.0, 200.0, 120.0, 120.0, 80.0, 40.0, 20.0, 8.0, 2.0];
    all.entities = shape.map(|n: f64| (n + rng.random_range(-0.5..0.5) * n.sqrt()).round());
    // Uniform noise of a Poisson count's variance.
    all.latents = rates.iter().map(|rate| (rate + (rng.random::<f64>() - 0.5) * (12.0 * rate).sqrt()).max(0.0).round()).collect();
    if tables {
        let total: f64 = shape.iter().sum();
        all.by_bucket = (0..N_BUCKETS * M).map(|i| all.latents[i % M] * shape[i / M] / total).collect();
    }
    ObservedWindow {
        start_ms: t * HOUR,
        end_ms: (t + 1) * HOUR,
        model_version: String::new(),
        incomplete: None,
        segments: [(ALL.to_owned(), all)].into(),
    }
}

/// Time this thread has been on a CPU.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
