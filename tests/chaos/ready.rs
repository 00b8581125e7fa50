//! How soon a killed monitor is ready again where there is much to rebuild: 24 segments of 2,048 latents.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ndarray::{Array1, Array2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recsae::bundle::onnx::write::full_graph;
use recsae::kafka::producer::{Outgoing, Receipts, ReliableProducer};
use recsae::sae::weights::{SaeSpec, SaeWeights, Selection};

use crate::kills::verify;
use crate::monitor::Checked;
use crate::site::{Site, plan};
use crate::stage::Stage;
use crate::world::WINDOW_MS;

const D_IN: usize = 64;
const D_SAE: usize = 2_048;
const K: usize = 32;
/// With `_all` and `_other` 24.
pub(crate) const SURFACES: usize = 22;
const KILLS: usize = 10;
/// What the optimised program promises (`CHAOS_RECSAE`).
const READY: Duration = Duration::from_secs(2);

/// Killed again and again while records come, under static names, with three windows open: how soon it is ready.
pub(crate) fn again(stage: &Stage) -> Checked<String> {
    let mut site = Site::new(stage, "ready", plan(stage, 60, 0));
    site.settings.model[0].bundle = bundle(stage, &site)?;
    let surfaces = (0..SURFACES).map(|surface| format!("s{surface}")).collect();
    site.settings.segments.values = BTreeMap::from([("surface".to_owned(), surfaces)]);
    site.settings.segments.max = 2 + SURFACES;
    let is_over = AtomicBool::new(false);
    let (mut ready, mut rebuilt, mut peak) = (Vec::new(), Vec::new(), 0);
    std::thread::scope(|scope| -> Checked<()> {
        let feed = scope.spawn(|| feed(&site, stage.seed, &is_over));
        let played = (|| {
            let mut monitor = site.start(&[], "");
            let judged = |m: &crate::monitor::Monitor| m.scrape().filter(|s| s.get("recsae_windows_judged_total") >= 1.0).map(drop);
            monitor.wait_for(Duration::from_secs(120), "a window is judged, so three are open", judged)?;
            for _ in 0..KILLS {
                peak = peak.max(monitor.process.peak_kib().unwrap_or(0));
                monitor.kill()?;
                verify(&site)?;
                let positions = recsae::store::StoreReader::open(site.store()).and_then(|reader| reader.positions());
                let positions = positions.map_err(|error| error.to_string())?;
                let again: i64 = positions.values().map(|at| at.next_offset - at.replay_offset).sum();
                monitor = site.start(&[], "");
                ready.push(monitor.wait_ready(Duration::from_secs(60))?);
                let has_rebuilt = |m: &crate::monitor::Monitor| {
                    m.scrape().filter(|s| s.get("recsae_records_replayed_total") >= again as f64).map(|_| m.started.elapsed())
                };
                rebuilt.push((monitor.wait_for(Duration::from_secs(60), "open windows are read again", has_rebuilt)?, again));
            }
            monitor.kill()
        })();
        is_over.store(true, Ordering::SeqCst);
        feed.join().map_err(|_| "the feed panicked".to_owned())??;
        played
    })?;
    ready.sort_unstable();
    let (slowest, n_again) = rebuilt.iter().copied().max().unwrap_or_default();
    let words = format!(
        "{KILLS} kills: ready after {:.2?} (median), {:.2?} (slowest) from the start of the process; open windows rebuilt after {slowest:.2?} at \
         most ({n_again} records read again); VmHWM {} MiB",
        ready[KILLS / 2],
        ready[KILLS - 1],
        peak / 1024
    );
    if ready[KILLS - 1] > READY { Err(words) } else { Ok(words) }
}

/// A bundle of random weights.
pub(crate) fn bundle(stage: &Stage, site: &Site) -> Checked<std::path::PathBuf> {
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed);
    let w_enc = Array2::from_shape_fn((D_SAE, D_IN), |_| rng.random_range(-0.1_f32..0.1));
    let size = |n| NonZeroUsize::new(n).unwrap();
    let spec = SaeSpec { d_in: size(D_IN), d_sae: size(D_SAE), selection: Selection::TopK(size(K)), centring: false };
    let (b_enc, b_dec) = (Array1::zeros(D_SAE), Array1::zeros(D_IN));
    let sae = SaeWeights::new(spec, w_enc.clone(), b_enc, Some(w_enc), b_dec).map_err(|error| error.to_string())?;
    let (onnx, out) = (site.folder.path().join("large.onnx"), site.folder.path().join("large"));
    std::fs::write(&onnx, full_graph(&sae)?).unwrap();
    let mut command = Command::new(&stage.recsae);
    let built = command.env("ORT_DYLIB_PATH", &stage.library).args(["bundle", "build", "--onnx"]).arg(onnx).arg("--out").arg(&out).output();
    let built = built.map_err(|error| error.to_string())?;
    if built.status.success() { Ok(out) } else { Err(String::from_utf8_lossy(&built.stderr).into_owned()) }
}

/// Sends records of a minute's window a second, as long as it is not over.
pub(crate) fn feed(site: &Site, seed: u64, is_over: &AtomicBool) -> Checked<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 1);
    let producer = ReliableProducer::new(&site.settings.kafka).map_err(|error| error.to_string())?;
    let receipts = Arc::new(Receipts::default());
    let mut event_ms = site.world.plan.base_ms;
    while !is_over.load(Ordering::SeqCst) {
        for _ in 0..100 {
            event_ms += WINDOW_MS / 2_000;
            let vector: Vec<String> = (0..D_IN).map(|_| rng.random_range(-1.0_f32..1.0).to_string()).collect();
            let (entity, surface) = (rng.random_range(0..20_000), rng.random_range(0..SURFACES));
            let vector = vector.join(",");
            let text = format!("{{\"embedding\":[{vector}],\"entity\":\"u{entity}\",\"timestamp\":{event_ms},\"surface\":\"s{surface}\"}}");
            let (key, payload) = (format!("u{entity}"), Some(text.as_bytes()));
            let record = Outgoing { topic: &site.topic, key: Some(key.as_bytes()), payload, partition: None, timestamp_ms: None };
            producer.send(&record, &[], &receipts, Duration::from_secs(60)).map_err(|error| error.to_string())?;
        }
        producer.poll(Duration::from_millis(50));
    }
    producer.settle(&receipts, Instant::now() + Duration::from_secs(60)).map_err(|error| error.to_string())
}
