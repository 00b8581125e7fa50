//! Two model versions or two segments side by side: which concepts differ, by how much, how surely.

use std::collections::BTreeMap;

use anyhow::bail;
use serde::Serialize;

use crate::drift::closed::{ALL, ClosedWindow, OTHER};
use crate::drift::counts::{N_BUCKETS, SegmentCounts};
use crate::drift::exposure::PresenceCurve;
use crate::drift::settings::StreamLayout;
use crate::drift::stream::StreamId;
use crate::sae::latent::LatentId;
use crate::store::StoreReader;
use crate::store::reader::WindowQuery;
use crate::workshop::report::names::Names;
use crate::workshop::report::two_sample::{self, RateRatio, Stratum, rate_ratio};

/// Fewer counts on both sides together say nothing about a stream.
const MIN_COUNT: f64 = 10.0;
/// False discovery rate at which differences are named.
pub const NAMED_AT: f64 = 0.05;

/// What was compared and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first side: a model version or a segment.
    pub a: String,
    /// The second side.
    pub b: String,
    /// `model_version` or `segment`.
    pub of: String,
    /// Windows in which both were counted.
    pub windows: u64,
    /// Records of the first side in them.
    pub records_a: u64,
    /// Records of the second.
    pub records_b: u64,
    /// Entities of the first side, summed over windows; 0 when counting records.
    pub entities_a: u64,
    /// Entities of the second.
    pub entities_b: u64,
    /// Concepts tested.
    pub tested: u64,
    /// Concepts with too few counts to be tested.
    pub too_rare: u64,
    /// Concepts that differ at a false discovery rate of 5 %.
    pub named: u64,
    /// Every concept tested, the surest difference first.
    pub differences: Vec<Difference>,
}

/// One concept on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Stream.
    pub stream: StreamId,
    /// Name of the concept.
    pub concept: String,
    /// Where the name comes from.
    pub verification: String,
    /// Share of the first side's entities (or records).
    pub rate_a: f64,
    /// Share of the second side's.
    pub rate_b: f64,
    /// Second over first, session lengths and common rhythm taken out; null where the first shows none.
    pub ratio: Option<f64>,
    /// Lower 95 % limit.
    pub low: f64,
    /// Upper 95 % limit; null where there is none.
    pub high: Option<f64>,
    /// Score over its standard deviation.
    pub z: f64,
    /// Two-sided.
    pub p_value: f64,
    /// False discovery rate at which it is named.
    pub q_value: f64,
}

/// One side in one window: counts by latent, entities by session length, records.
#[derive(Clone, Debug, Default)]
struct Side {
    counts: Vec<f64>,
    entities: [f64; N_BUCKETS],
    records: f64,
}

/// Compares over the windows that start in `query`. `a` and `b` are two model versions (then within
/// `segment`), or two segments.
///
/// # Errors
/// The names are neither, the two have no window in common, or the store cannot be read.
pub fn compare(
    reader: &StoreReader,
    query: &WindowQuery,
    (a, b): (&str, &str),
    segment: Option<&str>,
    names: &Names,
) -> anyhow::Result<Comparison> {
    if a == b {
        bail!("expected two different model versions or segments to compare, found {a:?} twice");
    }
    let (versions, segments) = known(reader, query)?;
    if versions.is_empty() {
        bail!("no window was judged in the span: nothing can be compared");
    }
    let both = |known: &[String]| known.iter().any(|name| name == a) && known.iter().any(|name| name == b);
    let by_version = both(&versions);
    if !by_version && !both(&segments) {
        bail!(
            "expected two model versions or two segments of the span, found {a:?} and {b:?}; model versions: {}; segments: {}",
            versions.join(", "),
            segments.join(", ")
        );
    }
    if !by_version && !are_apart(a, b) {
        bail!(
            "expected two segments that share no record, as two values of one field, found {a:?} and {b:?}: the test takes the two sides for independent"
        );
    }
    let within = segment.unwrap_or(ALL);
    let mut pooled = Pooled::default();
    let mut windows: BTreeMap<(i64, String), [Side; 2]> = BTreeMap::new();
    let by = WindowQuery { model_version: None, segment: None, ..query.clone() };
    reader.for_each_window(&by, |window| -> anyhow::Result<()> {
        if by_version && window.model_version != a && window.model_version != b {
            return Ok(());
        }
        pooled.add(&window);
        let places =
            if by_version { [(window.model_version == a, within), (window.model_version == b, within)] } else { [(true, a), (true, b)] };
        let key = (window.start_ms, if by_version { String::new() } else { window.model_version.clone() });
        for (side, (here, segment)) in windows.entry(key).or_default().iter_mut().zip(places) {
            if let Some(counts) = window.segments.get(segment).filter(|_| here && window.incomplete.is_none()) {
                *side = Side::of(counts);
            }
        }
        Ok(())
    })?;
    windows.retain(|_, [a, b]| a.records > 0.0 && b.records > 0.0);
    if windows.is_empty() {
        bail!("{a:?} and {b:?} have no window in common in the span: nothing can be compared");
    }
    let of = if by_version { "model_version" } else { "segment" };
    // Streams of two segments are named as the newest model names them.
    let version = if by_version { b } else { versions.last().map_or("", String::as_str) };
    Ok(assemble((a, b), of, &windows, &pooled, &|stream| names.of(version, stream)))
}

type NameOf<'a> = &'a dyn Fn(StreamId) -> (String, String);

fn assemble((a, b): (&str, &str), of: &str, windows: &BTreeMap<(i64, String), [Side; 2]>, pooled: &Pooled, name: NameOf<'_>) -> Comparison {
    let curve = pooled.curve();
    let exposure = |side: &Side| pooled.exposure(curve.as_ref(), side);
    let exposures: Vec<[Vec<f64>; 2]> = windows.values().map(|sides| sides.each_ref().map(&exposure)).collect();
    let (mut kept, mut too_rare): (Vec<(usize, RateRatio)>, u64) = (Vec::new(), 0);
    for latent in 0..pooled.n_latents {
        let at = |values: &[f64]| values.get(latent).copied().unwrap_or(0.0);
        let strata: Vec<Stratum> = windows
            .values()
            .zip(&exposures)
            .map(|([a, b], [e_a, e_b])| Stratum { y_a: at(&a.counts), e_a: at(e_a), y_b: at(&b.counts), e_b: at(e_b) })
            .collect();
        let total: f64 = strata.iter().map(|s| s.y_a + s.y_b).sum();
        match rate_ratio(&strata).filter(|_| total >= MIN_COUNT) {
            Some(found) => kept.push((latent, found)),
            None => too_rare += 1,
        }
    }
    let tested = two_sample::test(&kept.iter().map(|(_, found)| *found).collect::<Vec<_>>());
    let sum = |side: usize, of: &dyn Fn(&Side) -> f64| windows.values().map(|sides| of(&sides[side])).sum::<f64>();
    let units = [0, 1].map(|side| sum(side, &Side::units).max(1.0));
    let finite = |value: f64| value.is_finite().then_some(value);
    let mut differences: Vec<Difference> = kept
        .iter()
        .zip(tested)
        .filter_map(|((latent, _), found)| {
            let stream = StreamId::Latent(LatentId(u32::try_from(*latent).ok()?));
            let (concept, verification) = name(stream);
            let rate = |side: usize| sum(side, &|s| s.counts.get(*latent).copied().unwrap_or(0.0)) / units[side];
            Some(Difference {
                stream,
                concept,
                verification,
                rate_a: rate(0),
                rate_b: rate(1),
                ratio: finite(found.ratio),
                low: found.low,
                high: finite(found.high),
                z: found.z,
                p_value: found.p_value,
                q_value: found.q_value,
            })
        })
        .collect();
    differences.sort_by(|a, b| a.q_value.total_cmp(&b.q_value).then(b.z.abs().total_cmp(&a.z.abs())).then(a.stream.cmp(&b.stream)));
    Comparison {
        a: a.to_owned(),
        b: b.to_owned(),
        of: of.to_owned(),
        windows: windows.len() as u64,
        records_a: whole(sum(0, &|side| side.records)),
        records_b: whole(sum(1, &|side| side.records)),
        entities_a: whole(sum(0, &Side::n_entities)),
        entities_b: whole(sum(1, &Side::n_entities)),
        tested: differences.len() as u64,
        too_rare,
        named: differences.iter().filter(|difference| difference.q_value <= NAMED_AT).count() as u64,
        differences,
    }
}

/// Whether no record is in both: values of the same fields.
fn are_apart(a: &str, b: &str) -> bool {
    let fields = |name: &str| name.split('&').map(|part| part.split('=').next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    // `_other` holds what no followed value does; of several fields a record may be in it for one and followed for another,
    // which names alone do not tell.
    let is_other = |one: &str, two: &str| one == OTHER && two != ALL && !two.contains('&');
    is_other(a, b) || is_other(b, a) || (a != ALL && b != ALL && fields(a) == fields(b))
}

fn known(reader: &StoreReader, query: &WindowQuery) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let all = WindowQuery { model_version: None, segment: None, ..query.clone() };
    let (mut versions, mut segments) = (Vec::new(), Vec::new());
    // Newest first: the last version pushed after reversing is the newest.
    for summary in reader.summaries(&all)?.into_iter().rev() {
        versions.retain(|known| *known != summary.model_version);
        versions.push(summary.model_version);
        if !segments.contains(&summary.segment) {
            segments.push(summary.segment);
        }
    }
    Ok((versions, segments))
}

impl Side {
    fn of(counts: &SegmentCounts) -> Self {
        let by_entity = counts.n_entities() > 0;
        let values = if by_entity { &counts.presence } else { &counts.fired };
        Self {
            counts: values.iter().map(|&n| f64::from(n)).collect(),
            entities: counts.entities.map(|n| n as f64),
            records: counts.records as f64,
        }
    }

    fn n_entities(&self) -> f64 {
        self.entities.iter().sum()
    }

    fn units(&self) -> f64 {
        if self.n_entities() > 0.0 { self.n_entities() } else { self.records }
    }
}

/// What session lengths do to presence, from all windows of both sides together.
#[derive(Default)]
struct Pooled {
    n_latents: usize,
    by_bucket: Vec<f64>,
    entities: [f64; N_BUCKETS],
}

impl Pooled {
    fn add(&mut self, window: &ClosedWindow) {
        let Some(all) = window.segments.get(ALL) else { return };
        self.n_latents = self.n_latents.max(all.fired.len()).max(all.presence.len());
        if self.by_bucket.len() < all.presence_by_bucket.len() {
            self.by_bucket.resize(all.presence_by_bucket.len(), 0.0);
        }
        self.by_bucket.iter_mut().zip(&all.presence_by_bucket).for_each(|(sum, &n)| *sum += f64::from(n));
        self.entities.iter_mut().zip(all.entities).for_each(|(sum, n)| *sum += n as f64);
    }

    fn curve(&self) -> Option<PresenceCurve> {
        let layout = StreamLayout { n_latents: self.n_latents, families: Vec::new(), residual_outlier: false, dead_record: false };
        (!self.by_bucket.is_empty()).then(|| PresenceCurve::fit(&self.by_bucket, &self.entities, &layout))
    }

    /// Expected entities of the side that show each latent, had it the pooled rates; records where entities are not told apart.
    fn exposure(&self, curve: Option<&PresenceCurve>, side: &Side) -> Vec<f64> {
        let mut exposure = vec![side.units(); self.n_latents];
        if let Some(curve) = curve.filter(|_| side.n_entities() > 0.0) {
            curve.exposure(&side.entities, &mut exposure);
        }
        exposure
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sums of counts, below 2^53")]
fn whole(sum: f64) -> u64 {
    sum as u64
}
