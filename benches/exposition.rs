//! CPU time to write 50,000 drift series from a snapshot, and to compress them; wants <= 3 ms for the text.
//!
//! `cargo bench --bench exposition`. Thread CPU time, because a shared machine's clock tells little.
#![expect(clippy::print_stdout, reason = "what a benchmark is for")]

use std::sync::Arc;
use std::time::Duration;

use recsae::drift::report::{ContractReport, DriftReport, SegmentReport, StreamReport, StreamState, Verdict};
use recsae::drift::stream::StreamId;
use recsae::metrics::exposition::DriftSeries;
use recsae::metrics::gzip::Deflated;
use recsae::metrics::selection::Limits;
use recsae::sae::latent::LatentId;
use recsae::snapshot::{ModelPicture, Snapshot};

const N_SEGMENTS: u32 = 25;
const N_STREAMS: u32 = 220;
const N_SNAPSHOTS: u32 = 10;
const N_ROUNDS: u32 = 500;

fn main() {
    let series = DriftSeries::new(Limits { max_series: 60_000, top_concepts: 1000, pinned: Default::default() });
    let snapshots: Vec<_> = (0..N_SNAPSHOTS).map(|round| Arc::new(snapshot(round))).collect();
    let first = series.render(&snapshots[0], false);
    let mut text = first;
    // The clock moves by the kernel's tick: the mean over all rounds is what it can tell.
    let started = thread_cpu();
    for snapshot in snapshots.iter().cycle().take(N_ROUNDS as usize) {
        text = series.render(snapshot, false);
    }
    let a_render = (thread_cpu() - started) / N_ROUNDS;
    let started = thread_cpu();
    let member = Deflated::of(&text.text).followed_by(b"");
    let compressing = thread_cpu() - started;
    println!(
        "{} series, {:.1} MB: {:.2} ms CPU a render; gzip once a snapshot {:.0} ms, {:.2} MB",
        text.n_series,
        text.text.len() as f64 / 1e6,
        a_render.as_secs_f64() * 1e3,
        compressing.as_secs_f64() * 1e3,
        member.len() as f64 / 1e6
    );
}

/// CPU time of this thread, from `/proc/thread-self/schedstat`: nanoseconds on a processor.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0))
}

fn snapshot(round: u32) -> Snapshot {
    let segments = (0..N_SEGMENTS).map(|segment| SegmentReport {
        segment: format!("surface=surface-{segment}&country=c{segment}"),
        verdict: Verdict::Judged,
        why: None,
        records: 5000,
        entities: 1900,
        units: None,
        parts: Vec::new(),
        streams: (0..N_STREAMS).map(|latent| stream(latent, segment, round)).collect(),
        concentration: Some(1.01),
        session_mix: Some(0.2),
        contract: ContractReport { fvu: Some(0.08), cosine: Some(0.95), norm_ratio: Some(0.94), l0: 31.6, dead_latents: 2, broken: None },
        psi: Some((0.02, 0.01)),
        js: Some((0.004, 0.003)),
    });
    let (segments, model_version) = (segments.collect(), String::from("v12"));
    let report =
        DriftReport { start_ms: 0, end_ms: 1, model_version: model_version.clone(), reference: None, segments, changes: Vec::new() };
    let model = ModelPicture { model_version, report: Some(Arc::new(report)), ..ModelPicture::default() };
    Snapshot { judging: true, models: vec![model], ..Snapshot::default() }
}

/// Values with all their digits, as live ones have.
fn stream(latent: u32, segment: u32, round: u32) -> StreamReport {
    let noise = |salt: u32| {
        f64::from((latent * 7919 + segment * 104_729 + round * 1_299_709 + salt * 31).wrapping_mul(2_654_435_761)) / f64::from(u32::MAX)
    };
    StreamReport {
        stream: StreamId::Latent(LatentId(latent)),
        state: StreamState::Ok,
        evidence_log: noise(1) * 9.0,
        threshold_log: 13.898_123_456,
        count: noise(2) * 100.0,
        expected: noise(3) * 100.0,
        exposure: 1890.25 + noise(4),
        dispersion: 1.0 + noise(5),
        ratio: 0.5 + noise(6),
        ratio_low: 0.4 + noise(7),
        ratio_high: 1.1 + noise(8),
        mde_ratio: 1.2 + noise(9),
    }
}
