//! From a judged window back to its records: counted again, they must agree with what was stored.

use serde::Serialize;

use crate::config::settings::Settings;
use crate::drift::closed::{ClosedWindow, SegmentMap, counted_version};
use crate::drift::counts::SegmentCounts;
use crate::monitor::assemble::assemble;
use crate::monitor::error::MonitorError;
use crate::monitor::models::Models;
use crate::monitor::reread::{PATIENCE, Reread};

/// What recounting found, for one model version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recount {
    /// Model version.
    pub model_version: String,
    /// Records counted again.
    pub records: u64,
    /// Counts compared: whole numbers, which must be equal.
    pub counts: u64,
    /// Counts that differ, each in words; empty when all agree.
    pub differences: Vec<String>,
    /// Largest relative difference of a sum of floats (activation values, reconstruction errors): 0 when they
    /// are equal bit for bit, as they are with the same engine, library and batches.
    pub float_difference: f64,
}

impl Recount {
    /// Whether every count agrees.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.differences.is_empty() && self.float_difference < 1e-4
    }
}

/// Counts the stored windows of one time again, all of them model versions of the same offsets.
///
/// # Errors
/// The broker no longer has the records, the models are not those of the configuration, or an engine failed.
pub fn recount(settings: &Settings, salt: [u8; 16], stored: &[ClosedWindow]) -> Result<Vec<Recount>, MonitorError> {
    let Some(first) = stored.first() else { return Ok(Vec::new()) };
    let mut reread = Reread::new(Models::open(settings)?, settings, salt, PATIENCE)?;
    let mut segments: Vec<String> = stored.iter().flat_map(|window| window.segments.keys().cloned()).collect();
    segments.sort();
    segments.dedup();
    let parts = reread.window(first.start_ms, &first.offsets, &segments)?;
    // Whether the topic is keyed by the entity was decided then; the parts' counts do not depend on it.
    let again = assemble(first.start_ms, first.end_ms, &parts, reread.labels(), false).windows;
    stored
        .iter()
        .map(|stored| {
            let window = again.iter().find(|window| window.model_version == counted_version(&stored.model_version));
            let window = window.ok_or_else(|| {
                MonitorError::Start(format!(
                    "no [[model]] is called {:?}, as this window's is (there are: {})",
                    stored.model_version,
                    reread.labels().join(", ")
                ))
            })?;
            Ok(compare(stored, window))
        })
        .collect()
}

fn compare(stored: &ClosedWindow, again: &ClosedWindow) -> Recount {
    let mut found = Recount {
        model_version: stored.model_version.clone(),
        records: again.segments.get(crate::drift::closed::ALL).map_or(0, |all| all.records),
        counts: 0,
        differences: Vec::new(),
        float_difference: 0.0,
    };
    let ranges =
        |window: &ClosedWindow| window.offsets.iter().map(|range| (range.partition.clone(), range.from, range.to)).collect::<Vec<_>>();
    if ranges(stored) != ranges(again) {
        found.differences.push(format!("offsets: {:?} stored, {:?} found", ranges(stored), ranges(again)));
    }
    let names = |segments: &SegmentMap| segments.keys().cloned().collect::<Vec<_>>();
    if names(&stored.segments) != names(&again.segments) {
        found.differences.push(format!("segments: {:?} stored, {:?} found", names(&stored.segments), names(&again.segments)));
    }
    for (name, stored) in &stored.segments {
        if let Some(again) = again.segments.get(name) {
            found.segment(name, stored, again);
        }
    }
    found
}

impl Recount {
    fn segment(&mut self, name: &str, a: &SegmentCounts, b: &SegmentCounts) {
        let wide = |values: &[u32]| values.iter().map(|&n| u64::from(n)).collect::<Vec<u64>>();
        self.whole(name, "records", &[a.records], &[b.records]);
        self.whole(name, "entities by session length", &a.entities, &b.entities);
        self.whole(name, "records by latent", &wide(&a.fired), &wide(&b.fired));
        self.whole(name, "entities by latent", &wide(&a.presence), &wide(&b.presence));
        self.whole(name, "entities by latent and session length", &wide(&a.presence_by_bucket), &wide(&b.presence_by_bucket));
        self.whole(name, "entities by family", &wide(&a.family_presence), &wide(&b.family_presence));
        self.whole(name, "Kish-weighted records by latent", &a.kish, &b.kish);
        self.whole(name, "Kish exposure and dead records", &[a.kish_exposure, a.dead_record], &[b.kish_exposure, b.dead_record]);
        self.whole(name, "residual histogram", &a.residual, &b.residual);
        self.whole(name, "active latents", &[a.contract.n, a.contract.n_active], &[b.contract.n, b.contract.n_active]);
        self.floats(&a.magnitude, &b.magnitude);
        let sums = |c: &crate::drift::counts::ContractSums| [c.squared_error, c.cosine, c.norm_ratio, c.squared_norm];
        self.floats(&sums(&a.contract), &sums(&b.contract));
        self.floats(&a.contract.sum, &b.contract.sum);
    }

    /// Vectors may end in zeros that the other does not write.
    fn whole(&mut self, segment: &str, what: &str, a: &[u64], b: &[u64]) {
        let n = a.len().max(b.len());
        self.counts += n as u64;
        let at = |values: &[u64], idx: usize| values.get(idx).copied().unwrap_or(0);
        let differ: Vec<usize> = (0..n).filter(|&idx| at(a, idx) != at(b, idx)).collect();
        if let Some(&first) = differ.first() {
            let more = if differ.len() > 1 { format!(", and {} more", differ.len() - 1) } else { String::new() };
            self.differences.push(format!("{segment}, {what} [{first}]: {} stored, {} counted{more}", at(a, first), at(b, first)));
        }
    }

    fn floats(&mut self, a: &[f64], b: &[f64]) {
        for idx in 0..a.len().max(b.len()) {
            let (a, b) = (a.get(idx).copied().unwrap_or(0.0), b.get(idx).copied().unwrap_or(0.0));
            if a.to_bits() != b.to_bits() {
                let difference = (a - b).abs() / a.abs().max(b.abs()).max(1.0);
                self.float_difference = self.float_difference.max(if difference.is_nan() { f64::INFINITY } else { difference });
            }
        }
    }
}
