//! References from history: windows that were judged, the ones in alert or with a broken contract left out.

use std::collections::BTreeSet;

use crate::drift::closed::ClosedWindow;
use crate::drift::reference::{LeftOut, Reference};
use crate::drift::report::{StreamState, Verdict};
use crate::drift::settings::JudgeSettings;
use crate::store::StoreReader;
use crate::store::reader::WindowQuery;

/// A span of time `from..to`, ms since 1970 UTC.
pub type Span = std::ops::Range<i64>;

/// Which windows a reference is made of.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Name of the reference.
    pub name: String,
    /// Model version whose windows are used.
    pub model_version: String,
    /// Fingerprint of its SAE.
    pub fingerprint: String,
    /// Windows that start in it.
    pub span: Span,
    /// Windows that start in one of these are left out.
    pub exclude: Vec<Span>,
}

/// Fits a reference to stored windows.
///
/// Left out and listed: windows without a verdict for a reason that makes them untypical (calendar,
/// contract broken, incomplete), windows with a stream in ALERT, and what the operator excludes.
///
/// # Errors
/// There is no such window, the windows cannot carry a reference, or the store cannot be read.
pub fn build(reader: &StoreReader, request: &BuildRequest, settings: &JudgeSettings) -> anyhow::Result<Reference> {
    let query = WindowQuery {
        from_ms: Some(request.span.start),
        to_ms: Some(request.span.end),
        model_version: Some(request.model_version.clone()),
        ..WindowQuery::default()
    };
    let mut in_alert = BTreeSet::new();
    reader.for_each_report(&query, |report| -> anyhow::Result<()> {
        let broken = report.segments.iter().any(|segment| segment.verdict == Verdict::ContractBroken);
        let alert = report.segments.iter().flat_map(|segment| &segment.streams).any(|stream| stream.state == StreamState::Alert);
        if alert || broken {
            in_alert.insert(report.start_ms);
        }
        Ok(())
    })?;
    let mut windows = Vec::new();
    reader.for_each_window(&query, |window| -> anyhow::Result<()> {
        windows.push(window);
        Ok(())
    })?;
    fit(windows, &in_alert, request, settings)
}

/// Fits a reference to windows counted from recorded embeddings; nothing is known of alerts there.
///
/// # Errors
/// The windows cannot carry a reference.
pub fn build_recorded(windows: Vec<ClosedWindow>, request: &BuildRequest, settings: &JudgeSettings) -> anyhow::Result<Reference> {
    fit(windows, &BTreeSet::new(), request, settings)
}

fn fit(
    windows: Vec<ClosedWindow>,
    in_alert: &BTreeSet<i64>,
    request: &BuildRequest,
    settings: &JudgeSettings,
) -> anyhow::Result<Reference> {
    let (mut kept, mut left_out): (Vec<ClosedWindow>, Vec<LeftOut>) = (Vec::new(), Vec::new());
    for window in windows.into_iter().filter(|window| request.span.contains(&window.start_ms)) {
        let start_ms = window.start_ms;
        let excluded = request.exclude.iter().any(|span| span.contains(&start_ms));
        match (excluded, in_alert.contains(&start_ms)) {
            (true, _) => left_out.push(LeftOut { start_ms, why: "excluded".into() }),
            (_, true) => left_out.push(LeftOut { start_ms, why: "alert".into() }),
            _ => kept.push(window),
        }
    }
    Ok(Reference::fit(&request.name, &request.fingerprint, &kept, settings)?.also_left_out(left_out))
}

/// One stream in two references.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Compared {
    /// Stream.
    pub stream: String,
    /// Share of the first reference's entities (or records) that show it.
    pub rate_a: f64,
    /// In the second.
    pub rate_b: f64,
    /// `rate_b / rate_a`.
    pub ratio: f64,
    /// `ln(ratio)` in standard deviations of both estimates: `sqrt(phi_a / C_a + phi_b / C_b)`.
    pub z: f64,
}

/// Streams of `_all` in two references of one SAE, largest |z| first. Streams never seen in either are left out.
#[must_use]
pub fn compare(a: &Reference, b: &Reference) -> Vec<Compared> {
    let (ra, rb) = (&a.rates, &b.rates);
    let streams = a.layout.streams().into_iter().zip(b.layout.streams()).enumerate();
    let mut rows: Vec<Compared> = streams
        .filter(|(j, (sa, sb))| sa == sb && ra.count[*j] + rb.count[*j] > 0.0)
        .map(|(j, (stream, _))| {
            let (rate_a, rate_b) = (share(a, j), share(b, j));
            let ratio = rate_b / rate_a;
            let spread = (ra.dispersion[j] / ra.count[j].max(0.5) + rb.dispersion[j] / rb.count[j].max(0.5)).sqrt();
            Compared { stream: stream.to_string(), rate_a, rate_b, ratio, z: ratio.ln() / spread }
        })
        .collect();
    rows.sort_by(|x, y| y.z.abs().total_cmp(&x.z.abs()));
    rows
}

/// Counting by entity: the share of entities. Counting records: the mean rate.
fn share(reference: &Reference, stream: usize) -> f64 {
    let entities: f64 = reference.entities.iter().sum();
    let rates = &reference.rates;
    if entities > 0.0 { rates.count[stream].max(0.5) / entities } else { rates.mean_rate[stream] }
}
