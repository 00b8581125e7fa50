//! The judge of one model version: closed windows in, verdicts out.
//!
//! | the window                                   | verdict              | evidence       |
//! |----------------------------------------------|----------------------|----------------|
//! | incomplete, or not after the last one judged | `incomplete`         | as it was      |
//! | on a calendar day                            | `calendar`           | as it was      |
//! | no records at all                            | `no_data`            | as it was      |
//! | the SAE does not fit its input               | `contract_broken`    | as it was      |
//! | a segment the reference does not know        | `insufficient_reference` | none       |
//! | volume outside [1/10, 10] of expectation     | `volume`             | as it was      |
//! | too few entities or records                  | `merging`            | waits          |
//! | session lengths far from the reference's     | `session_mix`        | as it was      |
//! | any other                                    | `judged`             | one step       |

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::drift::accepted::{AcceptError, AcceptedLevel};
use crate::drift::budget::{global_share, segment_share, thresholds_log};
use crate::drift::channel::{Channel, ChannelState, Place};
use crate::drift::closed::{ALL, ClosedWindow};
use crate::drift::concentration::frequent;
use crate::drift::divergence::divergences;
use crate::drift::gate::GateRule;
use crate::drift::least_squares::count;
use crate::drift::observed::{Observed, ObservedWindow};
use crate::drift::reference::Reference;
use crate::drift::report::{AlertChange, DriftReport, SegmentReport, Verdict};
use crate::drift::settings::{CountingUnit, JudgeSettings};
use crate::drift::stream::StreamId;
use crate::drift::sums::{mix_distance, summed};
use crate::drift::thin::{Merged, Readiness};
use crate::drift::unjudged::blank_report;

/// Mix distance from which the reference is known too badly at the window's session lengths.
const MAX_MIX_DISTANCE: f64 = 2.5;

/// Judges the windows of one model version against one reference.
#[derive(Clone, Debug)]
pub struct ModelJudge {
    reference: Arc<Reference>,
    settings: JudgeSettings,
    channels: BTreeMap<String, Channel>,
    last_start_ms: Option<i64>,
    mean_dispersion: f64,
    n_ref: f64,
}

/// All that must survive a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeState {
    reference: String,
    revision: u32,
    fingerprint: String,
    last_start_ms: Option<i64>,
    channels: BTreeMap<String, ChannelState>,
}

/// Why there is no judge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The reference was fitted to other counts.
    #[error("expected a reference with {what} {expected}, found {found}; fit a new reference")]
    OtherCounts {
        /// Which setting.
        what: &'static str,
        /// What is configured.
        expected: String,
        /// What the reference has.
        found: String,
    },
    /// The state belongs to another reference, or to other segments or streams.
    #[error("expected detector state of reference {expected}, found {found}; start with empty state")]
    OtherState {
        /// Reference in use.
        expected: String,
        /// Where the state comes from.
        found: String,
    },
}

impl JudgeError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OtherCounts { .. } => "other_counts",
            Self::OtherState { .. } => "other_state",
        }
    }
}

impl ModelJudge {
    /// A judge with no evidence yet.
    ///
    /// # Errors
    /// The reference was fitted with another unit, window length, time zone or number of latents.
    pub fn new(reference: Arc<Reference>, settings: JudgeSettings) -> Result<Self, JudgeError> {
        check(&reference, &settings)?;
        let rule = GateRule::new(count(reference.n_windows), count(reference.n_columns()), reference.sigma_w, settings.min_effect);
        let n_segments = reference.segments.len();
        let shared = reference.unit == CountingUnit::Presence;
        let channel = |segment: &str, streams: Vec<_>, models: Vec<_>, mean_expected: &[f64], share: f64| {
            let thresholds = thresholds_log(settings.budget_windows, &streams, share);
            let n_latents = reference.layout.n_latents;
            let frequent = if shared { frequent(&mean_expected[..n_latents]) } else { Vec::new() };
            let n_shared = if segment == ALL { reference.layout.n_concepts() } else { n_latents };
            Channel::new(
                segment,
                streams,
                (models, rule, thresholds),
                (frequent, n_shared),
                (reference.layout.families.clone(), reference.rates.fired_dispersion.clone()),
            )
        };
        let rates = &reference.rates;
        let all = channel(ALL, reference.layout.streams(), rates.models(), &rates.mean_expected, global_share(n_segments));
        let own = reference.layout.without_families();
        let segments = reference.segments.iter().map(|(name, levels)| {
            (name.clone(), channel(name, own.streams(), levels.models(), &levels.mean_expected, segment_share(n_segments)))
        });
        let channels = std::iter::once((ALL.to_owned(), all)).chain(segments).collect();
        let m = reference.layout.n_latents;
        let mean_dispersion = rates.dispersion[..m].iter().sum::<f64>() / count(m.max(1));
        let n_ref = rates.count[..m].iter().sum();
        Ok(Self { reference, settings, channels, last_start_ms: None, mean_dispersion, n_ref })
    }

    /// The reference in use.
    #[must_use]
    pub fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    /// Streams tested, over all segments.
    #[must_use]
    pub fn streams_tested(&self) -> usize {
        self.channels.values().map(|channel| channel.streams.len()).sum()
    }

    /// Start of the last window it saw.
    #[must_use]
    pub fn last_start_ms(&self) -> Option<i64> {
        self.last_start_ms
    }

    /// Whether a window that starts then was judged before: a replay.
    #[must_use]
    pub fn has_judged(&self, start_ms: i64) -> bool {
        self.last_start_ms.is_some_and(|last| start_ms <= last)
    }

    /// Judges a window counted live. Windows come in order; a missing or skipped one leaves the evidence as it is.
    pub fn judge(&mut self, window: &ClosedWindow) -> DriftReport {
        self.judge_observed(&ObservedWindow::of(window, self.settings.unit, self.reference.residual_from_bin, false))
    }

    /// The same for a window of a file.
    pub fn judge_observed(&mut self, window: &ObservedWindow) -> DriftReport {
        let nothing = Observed::default();
        let all = window.segments.get(ALL).unwrap_or(&nothing);
        let whole = self.verdict_on_whole(window, all);
        self.last_start_ms = Some(self.last_start_ms.unwrap_or(i64::MIN).max(window.start_ms));

        let x = self.reference.season.row(window.start_ms, &self.settings.timezone);
        let mut rates = Vec::new();
        self.reference.rates.rates(self.reference.season, &x, &mut rates);
        let mut changes = Vec::new();
        let mut segments = Vec::with_capacity(self.channels.len());
        let unknown = window.segments.keys().filter(|name| !self.channels.contains_key(*name));
        let names: Vec<String> = self.channels.keys().chain(unknown).cloned().collect();
        for name in names {
            let observed = window.segments.get(&name).unwrap_or(&nothing);
            let report = self.judge_segment(&name, window, observed, whole.clone(), (&x, &rates), &mut changes);
            segments.push(report);
        }
        segments.sort_by_key(|report| report.segment != ALL);
        changes.sort_by(|a, b| evidence_of(b).total_cmp(&evidence_of(a)));
        DriftReport {
            start_ms: window.start_ms,
            end_ms: window.end_ms,
            model_version: window.model_version.clone(),
            reference: Some(self.reference.name.clone()),
            segments,
            changes,
        }
    }

    /// What must be stored after a window.
    #[must_use]
    pub fn state(&self) -> JudgeState {
        JudgeState {
            reference: self.reference.name.clone(),
            revision: self.reference.revision,
            fingerprint: self.reference.fingerprint.clone(),
            last_start_ms: self.last_start_ms,
            channels: self.channels.iter().map(|(name, channel)| (name.clone(), channel.state.clone())).collect(),
        }
    }

    /// Continues where a stored state stopped.
    ///
    /// # Errors
    /// The state belongs to another reference, revision, fingerprint, or to other streams.
    pub fn restore(&mut self, state: JudgeState) -> Result<(), JudgeError> {
        let reference = &self.reference;
        let names = |name: &str, revision: u32, fingerprint: &str| format!("{name} revision {revision} of {fingerprint}");
        let fits = |(name, stored): (&String, &ChannelState)| {
            self.channels.get(name).is_some_and(|channel| channel.streams.len() == stored.evidence.len())
        };
        let expected = names(&reference.name, reference.revision, &reference.fingerprint);
        let found = names(&state.reference, state.revision, &state.fingerprint);
        if expected != found || state.channels.len() != self.channels.len() || !state.channels.iter().all(fits) {
            return Err(JudgeError::OtherState { expected, found });
        }
        self.last_start_ms = state.last_start_ms;
        for (name, stored) in state.channels {
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.restore(stored);
            }
        }
        Ok(())
    }

    /// Goes on against another reference: evidence and alerts of streams that both test are kept, levels
    /// accepted against the old one are not.
    ///
    /// # Errors
    /// As [`ModelJudge::new`].
    pub fn renewed(self, reference: Arc<Reference>) -> Result<Self, JudgeError> {
        let mut next = Self::new(reference, self.settings)?;
        next.last_start_ms = self.last_start_ms;
        for (name, old) in self.channels {
            if let Some(channel) = next.channels.get_mut(&name).filter(|channel| channel.streams == old.streams) {
                channel.restore(ChannelState { accepted: BTreeMap::new(), pending: Merged::default(), ..old.state });
            }
        }
        Ok(next)
    }

    /// Makes the recent level of a stream in ALERT what is expected of it from the next window on. The alert is over.
    ///
    /// # Errors
    /// The stream is not tested in that segment, or is not in ALERT.
    pub fn accept(&mut self, segment: &str, stream: StreamId) -> Result<AcceptedLevel, AcceptError> {
        let not_tested = || AcceptError::NotTested { segment: segment.to_owned(), stream };
        self.channels.get_mut(segment).ok_or_else(not_tested)?.accept(stream)
    }

    fn verdict_on_whole(&self, window: &ObservedWindow, all: &Observed) -> Option<(Verdict, Option<String>)> {
        if self.has_judged(window.start_ms) {
            return Some((Verdict::Incomplete, Some("a window of this time or a later one was judged before".to_owned())));
        }
        if let Some(why) = &window.incomplete {
            return Some((Verdict::Incomplete, Some(why.clone())));
        }
        if self.settings.is_calendar_day(window.start_ms) {
            return Some((Verdict::Calendar, None));
        }
        if all.units(self.settings.unit) <= 0.0 {
            return Some((Verdict::NoData, None));
        }
        let contract = self.reference.contract.assess(ALL, all, self.settings.max_fvu);
        contract.broken.map(|why| (Verdict::ContractBroken, Some(why)))
    }

    fn judge_segment(
        &mut self,
        name: &str,
        window: &ObservedWindow,
        observed: &Observed,
        whole: Option<(Verdict, Option<String>)>,
        (x, rates): (&[f64], &[f64]),
        changes: &mut Vec<AlertChange>,
    ) -> SegmentReport {
        let contract = self.reference.contract.assess(name, observed, self.settings.max_fvu);
        let mut report = blank_report(name, observed, Verdict::InsufficientReference);
        let broken = contract.broken.clone().map(|why| (Verdict::ContractBroken, Some(why)));
        report.contract = contract;
        let Some(channel) = self.channels.get_mut(name) else {
            report.why = Some("the reference does not know the segment".to_owned());
            return report;
        };
        if let Some((verdict, why)) = whole.or(broken) {
            (report.verdict, report.why) = (verdict, why);
            (report.streams, report.parts) = (channel.held_reports(), channel.parts());
            return report;
        }
        let summed = summed(&self.reference, &self.settings, name, window.start_ms, observed, x, rates);
        if let Some((psi, js)) = describe(&summed, self.reference.layout.n_latents, self.mean_dispersion, self.n_ref) {
            (report.psi, report.js) = (Some(psi), Some(js));
        }
        channel.state.pending.add(&summed);
        report.session_mix = mix_distance(&self.reference, name, &channel.state.pending);
        (report.verdict, report.why) = match channel.state.pending.readiness(self.settings.min_units()) {
            Readiness::Thin => (Verdict::Merging, None),
            Readiness::OddVolume => {
                let merged = std::mem::take(&mut channel.state.pending);
                (Verdict::Volume, Some(format!("{} where {:.0} were expected", merged.units, merged.expected_units)))
            }
            Readiness::Ready if report.session_mix.is_some_and(|kappa| kappa > MAX_MIX_DISTANCE) => {
                channel.state.pending = Merged::default();
                (Verdict::SessionMix, None)
            }
            Readiness::Ready => (Verdict::Judged, None),
        };
        if report.verdict == Verdict::Judged {
            let place = Place {
                start_ms: window.start_ms,
                end_ms: window.end_ms,
                window_ms: self.settings.window_ms,
                model_version: &window.model_version,
                reference: &self.reference.name,
            };
            let merged = std::mem::take(&mut channel.state.pending);
            report.units = (self.settings.unit != CountingUnit::Kish).then_some(merged.units);
            (report.streams, report.concentration) = channel.step(merged, place, changes);
        } else {
            report.streams = channel.held_reports();
        }
        report.parts = channel.parts();
        report
    }
}

fn check(reference: &Reference, settings: &JudgeSettings) -> Result<(), JudgeError> {
    let zone = settings.timezone.iana_name().unwrap_or("unnamed");
    let pairs = [
        ("counting unit", format!("{:?}", settings.unit), format!("{:?}", reference.unit)),
        ("window length in ms", settings.window_ms.to_string(), reference.window_ms.to_string()),
        ("time zone", zone.to_owned(), reference.timezone.clone()),
        ("latents", settings.n_latents.to_string(), reference.layout.n_latents.to_string()),
    ];
    match pairs.into_iter().find(|(_, expected, found)| expected != found) {
        Some((what, expected, found)) => Err(JudgeError::OtherCounts { what, expected, found }),
        None => Ok(()),
    }
}

fn describe(
    window: &Merged,
    n_latents: usize,
    phi: f64,
    n_ref: f64,
) -> Option<(crate::drift::divergence::WithFloor, crate::drift::divergence::WithFloor)> {
    divergences(window.y.get(..n_latents)?, window.mu.get(..n_latents)?, phi, n_ref)
}

fn evidence_of(change: &AlertChange) -> f64 {
    match change {
        AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) | AlertChange::Relapsing(crossing) => crossing.evidence_log,
        AlertChange::Recovered { .. } => f64::NEG_INFINITY,
    }
}
