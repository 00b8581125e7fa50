//! What the demo planted, what the monitor said, and whether the two agree.

use std::cell::Cell;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::serve::Addresses;
use crate::drift::report::Direction;
use crate::simulate::feed::Feed;
use crate::simulate::shift::Shift;
use crate::simulate::words::concept_name;
use crate::simulate::world::World;

/// The part of an alert of `/api/v1/alerts` that the demo reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenAlert {
    /// `_all`, `surface=home`, ...
    pub segment: String,
    /// `latent:7`.
    pub stream: String,
    /// Its name; with a question mark until a person has accepted it.
    pub concept: String,
    /// Whether the name held on users and items it was not made from.
    #[serde(default)]
    pub verification: String,
    /// Up or down.
    pub direction: Direction,
    /// Ratio since the change point.
    pub ratio: Option<f64>,
    /// Lower 95 % limit.
    pub ratio_low: Option<f64>,
    /// Upper 95 % limit.
    pub ratio_high: Option<f64>,
    /// Change point.
    pub began: jiff::Timestamp,
    /// End of the window that raised it.
    pub window_end: jiff::Timestamp,
}

/// What was planted, in the words of an alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Planted {
    concept: String,
    stream: String,
    segment: String,
    direction: Direction,
    ratio_in_records: f64,
    began: jiff::Timestamp,
}

/// How the demo ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Seed of the world.
    pub seed: u64,
    /// Whether the planted concept was named on its surface with its direction, and nothing else was named.
    pub found: bool,
    /// What was planted; none with `--no-drift`.
    pub planted: Option<Planted>,
    /// The planted shift in entities, as served: what the monitor's ratio estimates.
    pub planted_ratio_in_entities: Option<f64>,
    /// The alert that names it.
    pub alert: Option<SeenAlert>,
    /// Alerts that name something else: false alarms.
    pub other_alerts: Vec<SeenAlert>,
    /// Windows judged, the reference included.
    pub windows_judged: u64,
    /// Records sent.
    pub records_sent: u64,
    /// Wall-clock time of the search.
    pub seconds: f64,
    /// Page and API.
    pub page: String,
    /// Metrics.
    pub metrics: String,
    #[serde(skip)]
    is_final: bool,
    /// Whether somebody has read it.
    #[serde(skip)]
    pub(crate) was_printed: Cell<bool>,
}

impl Verdict {
    /// Nothing is known yet; `shift` with the latent that reads its concept.
    #[must_use]
    pub fn new(seed: u64, shift: Option<(Shift, usize)>, world: &World, addresses: Addresses) -> Self {
        let planted = shift.map(|(shift, latent)| Planted {
            concept: concept_name(shift.concept),
            stream: format!("latent:{latent}"),
            segment: format!("surface={}", shift.surface_name()),
            direction: shift.direction(),
            ratio_in_records: shift.ratio,
            began: jiff::Timestamp::from_millisecond(world.window_start_ms(shift.from_window)).unwrap_or_default(),
        });
        Self {
            seed,
            found: false,
            planted,
            planted_ratio_in_entities: None,
            alert: None,
            other_alerts: Vec::new(),
            windows_judged: 0,
            records_sent: 0,
            seconds: 0.0,
            page: format!("http://{}/", addresses.http),
            metrics: format!("http://{}/metrics", addresses.metrics),
            is_final: false,
            was_printed: Cell::new(false),
        }
    }

    /// Compares the monitor's alerts with what was planted. The same concept on `_all` is the same news.
    pub fn look(&mut self, feed: &Feed, windows_judged: u64, elapsed: Duration, alerts: Vec<SeenAlert>) {
        self.windows_judged = windows_judged;
        self.records_sent = feed.n_records();
        self.seconds = elapsed.as_secs_f64();
        self.planted_ratio_in_entities = feed.entity_ratio();
        self.take(alerts);
    }

    fn take(&mut self, alerts: Vec<SeenAlert>) {
        let planted = self.planted.as_ref();
        let (same, others): (Vec<_>, Vec<_>) =
            alerts.into_iter().partition(|alert| planted.is_some_and(|planted| planted.is_named_by(alert)));
        self.alert = same.into_iter().find(|alert| planted.is_some_and(|planted| planted.segment == alert.segment));
        self.other_alerts = others;
        self.found = self.alert.is_some() && self.other_alerts.is_empty();
    }

    /// Nothing that comes later counts.
    pub fn finish(&mut self) {
        self.is_final = true;
    }

    /// Whether it is finished.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.is_final
    }
}

impl Planted {
    fn is_named_by(&self, alert: &SeenAlert) -> bool {
        alert.stream == self.stream
            && alert.concept.trim_end_matches('?') == self.concept
            && alert.direction == self.direction
            && [self.segment.as_str(), "_all"].contains(&alert.segment.as_str())
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(alert) = &self.alert {
            writeln!(f, "\nALERT    {alert}")?;
        }
        for alert in &self.other_alerts {
            writeln!(f, "\nFALSE    {alert}")?;
        }
        match &self.planted {
            Some(planted) => {
                let Planted { concept, segment, direction, ratio_in_records, began, .. } = planted;
                write!(f, "planted  \"{concept}\" on {segment}, {}, x{ratio_in_records:.2} in records", direction.kind())?;
                if let Some(ratio) = self.planted_ratio_in_entities {
                    write!(f, " (x{ratio:.2} in entities, which is what is counted)")?;
                }
                writeln!(f, ", from {began}")?;
            }
            None => writeln!(f, "planted  nothing")?,
        }
        let answer = match (&self.planted, self.found) {
            (Some(_), true) => "found: the right concept on the right surface",
            (Some(_), false) => "not found",
            (None, _) if self.other_alerts.is_empty() => "no alert, as it should be",
            (None, _) => "a false alarm",
        };
        writeln!(f, "{answer}, after {} hours of event time, {} records, {:.1} s", self.windows_judged, self.records_sent, self.seconds)
    }
}

impl std::fmt::Display for SeenAlert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "\"{}\" ({}, {}) on {}: {}, ratio {} [{} to {}], began {}, alerted at {}",
            self.concept,
            self.verification,
            self.stream,
            self.segment,
            self.direction.kind(),
            number(self.ratio),
            number(self.ratio_low),
            number(self.ratio_high),
            self.began,
            self.window_end
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(segment: &str, stream: &str, direction: Direction) -> SeenAlert {
        SeenAlert {
            segment: segment.into(),
            stream: stream.into(),
            concept: format!("{}?", concept_name(7)),
            verification: "verified".into(),
            direction,
            ratio: Some(3.0),
            ratio_low: None,
            ratio_high: None,
            began: jiff::Timestamp::UNIX_EPOCH,
            window_end: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn verdict(shift: Option<Shift>) -> Verdict {
        let addresses = Addresses { metrics: ([127, 0, 0, 1], 1).into(), http: ([127, 0, 0, 1], 2).into() };
        Verdict::new(1, shift.map(|shift| (shift, 70)), &World::new(1, 0).unwrap(), addresses)
    }

    #[test]
    fn only_the_planted_concept_on_its_surface_in_its_direction_is_found() {
        let shift = Shift { concept: 7, surface: 2, ratio: 3.0, from_window: 80 };
        let cases = [
            (vec![alert("surface=mail", "latent:70", Direction::Up)], true),
            (vec![alert("_all", "latent:70", Direction::Up), alert("surface=mail", "latent:70", Direction::Up)], true),
            (vec![alert("_all", "latent:70", Direction::Up)], false),
            (vec![alert("surface=mail", "latent:70", Direction::Down)], false),
            (vec![alert("surface=home", "latent:70", Direction::Up)], false),
            (vec![alert("surface=mail", "latent:80", Direction::Up)], false),
            (vec![alert("surface=mail", "latent:70", Direction::Up), alert("_all", "latent:80", Direction::Up)], false),
            (vec![], false),
        ];
        for (alerts, expected) in cases {
            let mut verdict = verdict(Some(shift.clone()));
            verdict.take(alerts.clone());
            assert_eq!(verdict.found, expected, "{alerts:?}");
        }
        let mut misnamed = verdict(Some(shift));
        misnamed.take(vec![SeenAlert { concept: concept_name(8), ..alert("surface=mail", "latent:70", Direction::Up) }]);
        assert!(!misnamed.found && misnamed.other_alerts.len() == 1, "the right latent under a wrong name");
        let mut verdict = verdict(None);
        verdict.take(vec![alert("surface=mail", "latent:70", Direction::Up)]);
        assert!(!verdict.found && verdict.other_alerts.len() == 1);
    }
}
