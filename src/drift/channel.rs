//! One segment's test: its alternatives, its evidence, the streams it holds in ALERT, what waits to be merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::accepted::{AcceptError, AcceptedLevel};
use crate::drift::alternatives::{Alternatives, StreamModel};
use crate::drift::concentration;
use crate::drift::evidence::{Evidence, Run};
use crate::drift::gate::GateRule;
use crate::drift::grouping::{MAX_MOVED_WITH, MOVED_NATS, Opened, parts_of};
use crate::drift::intervals::{change_point_slack, ratio_interval, windows_between};
use crate::drift::rate_runs::RateRuns;
use crate::drift::report::{AlertChange, Crossing, Direction, MovedWith, StreamReport};
use crate::drift::state::{Crossed, HeldWindow, Hold, HoldStep, Told, unheld_state};
use crate::drift::stream::StreamId;
use crate::drift::thin::Merged;
use crate::sae::latent::LatentId;

/// What does not change from window to window.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) segment: String,
    pub(super) streams: Vec<StreamId>,
    pub(super) alternatives: Alternatives,
    /// What the reference says of each stream, and how gates follow: for levels that are accepted.
    models: Vec<StreamModel>,
    rule: GateRule,
    /// Members of each family.
    families: Vec<Vec<LatentId>>,
    /// Overdispersion of each latent's activations a record.
    fired_dispersion: Vec<f64>,
    /// Positions the concentration factor is measured on; empty = no factor.
    pub(super) frequent: Vec<usize>,
    /// Concepts (latents) that the factor applies to: the first of the streams.
    pub(super) n_shared: usize,
    pub(super) state: ChannelState,
    log_evidence: Vec<f64>,
}

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelState {
    pub(super) evidence: Evidence,
    pub(super) holds: BTreeMap<usize, Hold>,
    pub(super) pending: Merged,
    /// Activations a record of the current runs.
    #[serde(default)]
    pub(super) rate_runs: RateRuns,
    /// Levels that operators accepted, by position.
    #[serde(default)]
    pub(super) accepted: BTreeMap<usize, AcceptedLevel>,
}

/// Where and when a step happens, for what is written about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    pub(super) window_ms: i64,
    pub(super) model_version: &'a str,
    pub(super) reference: &'a str,
}

impl Channel {
    /// `test`: what the reference says of each stream, how gates follow, and each stream's threshold.
    pub(super) fn new(
        segment: &str,
        streams: Vec<StreamId>,
        test: (Vec<StreamModel>, GateRule, Vec<f64>),
        (frequent, n_shared): (Vec<usize>, usize),
        (families, fired_dispersion): (Vec<Vec<LatentId>>, Vec<f64>),
    ) -> Self {
        let (models, rule, thresholds_log) = test;
        let state = ChannelState {
            evidence: Evidence::new(streams.len()),
            holds: BTreeMap::new(),
            pending: Merged::default(),
            rate_runs: RateRuns::default(),
            accepted: BTreeMap::new(),
        };
        let alternatives = Alternatives::new(&models, rule, &thresholds_log);
        Self {
            segment: segment.to_owned(),
            streams,
            alternatives,
            models,
            rule,
            families,
            fired_dispersion,
            frequent,
            n_shared,
            state,
            log_evidence: Vec::new(),
        }
    }

    /// Goes on from a stored state.
    pub(super) fn restore(&mut self, state: ChannelState) {
        self.state = state;
        for (&j, level) in &self.state.accepted {
            self.alternatives.replace(j, level.applied(self.models[j]), self.rule.widest());
        }
    }

    /// Makes the recent level of a stream in ALERT what is expected of it: the alert is over, evidence starts anew.
    pub(super) fn accept(&mut self, stream: StreamId) -> Result<AcceptedLevel, AcceptError> {
        let segment = || self.segment.clone();
        let j = self.streams.iter().position(|tested| *tested == stream);
        let j = j.ok_or_else(|| AcceptError::NotTested { segment: segment(), stream })?;
        let hold = self.state.holds.get(&j).filter(|hold| hold.is_alert());
        let (count, expected) = hold.ok_or_else(|| AcceptError::NotInAlert { segment: segment(), stream })?.recent_sums();
        let level = AcceptedLevel::measured(count, expected, self.state.accepted.get(&j).copied());
        self.state.accepted.insert(j, level);
        self.alternatives.replace(j, level.applied(self.models[j]), self.rule.widest());
        self.state.holds.remove(&j);
        self.state.evidence.reset(j);
        Ok(level)
    }

    /// Judges what was merged. Returns the streams' reports, the concentration factor, and adds to `changes`.
    pub(super) fn step(
        &mut self,
        mut window: Merged,
        place: Place<'_>,
        changes: &mut Vec<AlertChange>,
    ) -> (Vec<StreamReport>, Option<f64>) {
        for (&j, level) in &self.state.accepted {
            window.mu[j] *= level.factor;
        }
        let factor = (!self.frequent.is_empty()).then(|| concentration::factor(&window.y, &window.mu, &self.frequent));
        if let Some(factor) = factor {
            window.mu.iter_mut().take(self.n_shared).for_each(|mu| *mu *= factor);
        }
        let state = &mut self.state;
        state.evidence.step(&self.alternatives, &window.y, &window.mu, window.start_ms, &mut self.log_evidence);

        state.rate_runs.step(&state.evidence, &window);

        let crosses = |&j: &usize| self.log_evidence[j] >= self.alternatives.streams[j].threshold_log;
        let crossed: Vec<usize> = (0..self.streams.len()).filter(crosses).collect();
        let crossings: Vec<(usize, Crossing)> = crossed.iter().map(|&j| (j, self.crossing(j, &window, place))).collect();
        let mut reports: Vec<StreamReport> = (0..self.streams.len()).map(|j| self.report(j, &window)).collect();
        let mut opened = Vec::new();
        for (j, crossing) in crossings {
            self.state.evidence.reset(j);
            let crossed = Crossed {
                direction: crossing.direction,
                evidence_log: crossing.evidence_log,
                ratio: crossing.ratio,
                windows: windows_between(crossing.began_ms, place.end_ms, place.window_ms),
                start_ms: place.start_ms,
            };
            let hold = self.state.holds.get_mut(&j);
            match hold.map_or(Told::Opens, |hold| hold.cross_again(crossed)) {
                Told::Opens => {
                    self.state.holds.entry(j).or_insert_with(|| Hold::open(crossed));
                    opened.push((j, crossing));
                }
                Told::Again => {
                    let part_of = self.state.holds.get(&j).and_then(|hold| hold.part_of.clone());
                    changes.push(AlertChange::CrossedAgain(Crossing { part_of, ..crossing }));
                }
                Told::Unconfirmed => changes.push(AlertChange::Relapsing(crossing)),
            }
        }
        self.group(opened, place.window_ms, changes);
        self.step_holds(&window, place, &mut reports, changes);
        (reports, factor)
    }

    /// Says which larger alert each new one is told with.
    fn group(&mut self, opened: Vec<(usize, Crossing)>, window_ms: i64, changes: &mut Vec<AlertChange>) {
        if opened.is_empty() {
            return;
        }
        let new_ones: Vec<Opened<'_>> = opened
            .iter()
            .map(|(_, c)| Opened { stream: c.stream, direction: c.direction, start_ms: c.window_start_ms, part_of: None })
            .collect();
        let held: Vec<Opened<'_>> = self
            .state
            .holds
            .iter()
            .filter(|(j, hold)| hold.is_alert() && !opened.iter().any(|(new, _)| new == *j))
            .map(|(&j, hold)| Opened {
                stream: self.streams[j],
                direction: hold.direction,
                start_ms: hold.opened_ms,
                part_of: hold.part_of.as_deref(),
            })
            .collect();
        let parts = parts_of(&new_ones, &held, &self.families, window_ms);
        for ((j, crossing), part_of) in opened.into_iter().zip(parts) {
            if let Some(hold) = self.state.holds.get_mut(&j) {
                hold.part_of.clone_from(&part_of);
            }
            changes.push(AlertChange::Opened(Crossing { part_of, ..crossing }));
        }
    }

    /// Other streams whose run speaks by three nats or more, most evidence first.
    fn moved_with(&self, j: usize) -> Vec<MovedWith> {
        let families_of = |stream: StreamId| -> Vec<u32> {
            match stream {
                StreamId::Latent(latent) => {
                    (0..).zip(&self.families).filter(|(_, members)| members.contains(&latent)).map(|(f, _)| f).collect()
                }
                StreamId::Family(f) => vec![f],
                _ => Vec::new(),
            }
        };
        let own = families_of(self.streams[j]);
        let mut moving: Vec<(usize, f64)> = (0..self.streams.len())
            .filter(|&i| i != j)
            .map(|i| (i, self.state.evidence.run_nats(i)))
            .filter(|(_, nats)| *nats >= MOVED_NATS)
            .collect();
        moving.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        moving.truncate(MAX_MOVED_WITH);
        let describe = |(i, nats): (usize, f64)| {
            let run = self.state.evidence.run(i, self.state.evidence.direction(i));
            let ratio = run.filter(|run| run.expected > 0.0).map_or(1.0, |run| run.count / run.expected);
            let same_family = families_of(self.streams[i]).iter().any(|family| own.contains(family));
            MovedWith { stream: self.streams[i], ratio, nats, same_family }
        };
        moving.into_iter().map(describe).collect()
    }

    fn step_holds(&mut self, window: &Merged, place: Place<'_>, reports: &mut [StreamReport], changes: &mut Vec<AlertChange>) {
        let mut over = Vec::new();
        for (&j, hold) in &mut self.state.holds {
            let of = &self.alternatives.streams[j];
            let held = HeldWindow {
                count: window.y[j],
                expected: window.mu[j],
                gate: of.gate,
                dispersion: of.dispersion,
                run_nats: self.state.evidence.run_nats(j),
            };
            match hold.step(held) {
                HoldStep::Held => {}
                HoldStep::Recovered => changes.push(AlertChange::Recovered {
                    segment: self.segment.clone(),
                    stream: self.streams[j],
                    window_end_ms: place.end_ms,
                }),
                HoldStep::Over => over.push(j),
            }
            if let Some(state) = hold.state() {
                reports[j].state = state;
            }
            if hold.is_alert() {
                reports[j].evidence_log = hold.evidence_log;
            }
        }
        over.iter().for_each(|j| drop(self.state.holds.remove(j)));
    }

    /// Reports of the streams held in ALERT or RECOVERED, for a window without a verdict: an alert must not
    /// vanish from the metrics because a window was skipped.
    pub(super) fn held_reports(&self) -> Vec<StreamReport> {
        let report = |(&j, hold): (&usize, &Hold)| {
            let state = hold.state()?;
            let (count, expected) = hold.recent_sums();
            let of = &self.alternatives.streams[j];
            let (ratio, ratio_low, ratio_high) = ratio_interval(count, expected, of.dispersion);
            Some(StreamReport {
                stream: self.streams[j],
                state,
                evidence_log: if hold.is_alert() { hold.evidence_log } else { 0.0 },
                threshold_log: of.threshold_log,
                count: 0.0,
                expected: 0.0,
                exposure: 0.0,
                dispersion: of.dispersion,
                ratio,
                ratio_low,
                ratio_high,
                mde_ratio: of.detectable_ratio(0.0),
            })
        };
        self.state.holds.iter().filter_map(report).collect()
    }

    /// Streams in ALERT that are told with a larger alert.
    pub(super) fn parts(&self) -> Vec<(StreamId, String)> {
        let part = |(&j, hold): (&usize, &Hold)| Some((self.streams[j], hold.part_of.clone().filter(|_| hold.is_alert())?));
        self.state.holds.iter().filter_map(part).collect()
    }

    fn report(&self, j: usize, window: &Merged) -> StreamReport {
        let of = &self.alternatives.streams[j];
        let (y, mu) = (window.y[j], window.mu[j]);
        let run = |direction| self.state.evidence.run(j, direction);
        let longest = match (run(Direction::Up), run(Direction::Down)) {
            (Some(up), Some(down)) => Some(if up.began_ms <= down.began_ms { up } else { down }),
            (up, down) => up.or(down),
        };
        let (count, expected) = match (longest, self.state.holds.get(&j)) {
            (Some(run), _) => (run.count, run.expected),
            (None, Some(hold)) if hold.is_alert() => hold.recent_sums(),
            (None, _) => (y, mu),
        };
        let (ratio, ratio_low, ratio_high) = ratio_interval(count, expected, of.dispersion);
        let log_evidence = self.log_evidence[j];
        StreamReport {
            stream: self.streams[j],
            state: unheld_state(log_evidence, of.threshold_log),
            evidence_log: log_evidence.max(0.0),
            threshold_log: of.threshold_log,
            count: y,
            expected: mu,
            exposure: window.exposure[j],
            dispersion: of.dispersion,
            ratio,
            ratio_low,
            ratio_high,
            mde_ratio: of.detectable_ratio(mu),
        }
    }

    fn crossing(&self, j: usize, window: &Merged, place: Place<'_>) -> Crossing {
        let of = &self.alternatives.streams[j];
        let direction = self.state.evidence.direction(j);
        let this_window = Run { began_ms: window.start_ms, count: window.y[j], expected: window.mu[j] };
        let run = self.state.evidence.run(j, direction).unwrap_or(this_window);
        let (ratio, ratio_low, ratio_high) = ratio_interval(run.count, run.expected, of.dispersion);
        let rate = self.state.rate_runs.ratio(j, direction, self.fired_dispersion.get(j).copied().unwrap_or(1.0));
        let slack = change_point_slack(ratio, window.mu[j] / of.dispersion, place.window_ms);
        Crossing {
            window_start_ms: place.start_ms,
            window_end_ms: place.end_ms,
            model_version: place.model_version.to_owned(),
            segment: self.segment.clone(),
            stream: self.streams[j],
            direction,
            evidence_log: self.log_evidence[j],
            threshold_log: of.threshold_log,
            ratio,
            ratio_low,
            ratio_high,
            began_ms: run.began_ms,
            began_low_ms: run.began_ms.saturating_sub(slack),
            began_high_ms: run.began_ms.saturating_add(slack).min(place.start_ms),
            exposure: window.exposure[j],
            mde_ratio: of.detectable_ratio(window.mu[j]),
            reference: place.reference.to_owned(),
            rate_ratio: rate.map(|(ratio, _, _)| ratio),
            rate_low: rate.map(|(_, low, _)| low),
            rate_high: rate.map(|(_, _, high)| high),
            part_of: None,
            moved_with: self.moved_with(j),
        }
    }
}
