//! What the chain tells, followed to its end: who is left in which state, and which rows there have to be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::drift::report::AlertState;
use crate::store::audit::AuditEntry;

/// State an alert was left in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) state: AlertState,
    pub(super) ended_ms: Option<i64>,
    /// The entry that told so last.
    entry: i64,
}

/// A fact that a later entry may replace, and the entry that told it last.
#[derive(Clone, Debug)]
pub(super) struct LastWord {
    pub(super) entry: i64,
    pub(super) at_ms: i64,
    pub(super) body: Value,
}

/// Detector state of a model version in a lineage: digest and window.
#[derive(Clone, Debug)]
pub(super) struct StateTold {
    pub(super) entry: i64,
    pub(super) digest: String,
    pub(super) window_start: Option<i64>,
}

/// The chain's last words.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) lineages: BTreeMap<i64, LastWord>,
    /// `(lineage, segment)` to the first window it is counted from, and the entry.
    pub(super) admitted: BTreeMap<(i64, String), (i64, i64)>,
    /// `(lineage, start)` of judged windows, and whether the entry is of a program that tells all, see [`Told::tells_all`].
    pub(super) windows: BTreeMap<(i64, i64), bool>,
    /// `(lineage, model version)`; `None` where only an older program told of it, which does not tell the state.
    pub(super) states: BTreeMap<(i64, String), Option<StateTold>>,
    fates: BTreeMap<i64, Fate>,
    /// Alert to its lineage and the end of the window that opened it.
    opened: BTreeMap<i64, (i64, i64)>,
    /// `(alert, window start)`.
    pub(super) crossings: BTreeSet<(i64, i64)>,
    actions: Vec<i64>,
    pub(super) references: BTreeSet<String>,
    pub(super) approvals: BTreeMap<String, LastWord>,
    /// Alert to the entry that told of its explanation last: one that was lost is made again.
    pub(super) explained: BTreeMap<i64, i64>,
    pub(super) pruned_before_ms: i64,
    /// Of the judged window that was told last.
    lineage: i64,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            lineages: BTreeMap::new(),
            admitted: BTreeMap::new(),
            windows: BTreeMap::new(),
            states: BTreeMap::new(),
            fates: BTreeMap::new(),
            opened: BTreeMap::new(),
            crossings: BTreeSet::new(),
            actions: Vec::new(),
            references: BTreeSet::new(),
            approvals: BTreeMap::new(),
            explained: BTreeMap::new(),
            pruned_before_ms: i64::MIN,
            lineage: 0,
        }
    }
}

impl Told {
    /// Whether the body of such an entry is read: another one's may be anything.
    pub(super) fn is_checked(kind: &str) -> bool {
        ["judged", "reference", "alert_opened", "alert_crossed", "action", "explained"].contains(&kind)
    }

    /// Takes an entry in, in the order of the chain. What it leaves out tells nothing.
    pub(super) fn hear(&mut self, entry: &AuditEntry) {
        let Ok(body) = serde_json::from_str::<Value>(&entry.body) else { return };
        let alert = body["alert"].as_i64().unwrap_or(0);
        let name = || body["name"].as_str().unwrap_or_default().to_owned();
        let last_word = || LastWord { entry: entry.id, at_ms: entry.at_ms, body: body.clone() };
        match entry.kind.as_str() {
            "lineage" => {
                let lineage = body["lineage"].as_i64().unwrap_or(0);
                self.lineages.insert(lineage, last_word());
            }
            "lineage_taken_back" => {
                let kept = body["continued"].as_i64().unwrap_or(i64::MAX);
                // They counted no window, so that nothing else belongs to them; their numbers are given again.
                self.lineages.retain(|lineage, _| *lineage <= kept);
                self.fates_of(&body["alerts"], Fate { state: AlertState::Firing, ended_ms: None, entry: entry.id });
            }
            "judged" => self.hear_judged(entry.id, &body),
            "detectors" => {
                let (lineage, version) = (body["lineage"].as_i64().unwrap_or(0), body["model_version"].as_str().unwrap_or_default());
                self.hear_state(entry.id, (lineage, version), &body["state"], body["window_start"].as_i64());
            }
            "alert_opened" => {
                let crossing = &body["crossing"];
                self.opened.insert(alert, (self.lineage, crossing["window_end_ms"].as_i64().unwrap_or(i64::MAX)));
                self.crossings.insert((alert, crossing["window_start_ms"].as_i64().unwrap_or(0)));
                self.fates.insert(alert, Fate { state: AlertState::Firing, ended_ms: None, entry: entry.id });
            }
            "alert_crossed" => {
                self.crossings.insert((alert, body["crossing"]["window_start_ms"].as_i64().unwrap_or(0)));
            }
            "alert_recovered" => {
                let fate = Fate { state: AlertState::Recovered, ended_ms: body["window_end"].as_i64(), entry: entry.id };
                self.fates.insert(alert, fate);
            }
            "alerts_ended" => {
                self.fates_of(&body["alerts"], Fate { state: AlertState::Ended, ended_ms: body["ended_ms"].as_i64(), entry: entry.id });
            }
            "action" => self.hear_action(entry, &body, alert),
            "reference" => {
                self.references.insert(name());
            }
            "reference_approved" => {
                self.approvals.insert(name(), last_word());
            }
            "explained" => {
                self.explained.insert(alert, entry.id);
            }
            "pruned" => self.pruned_before_ms = self.pruned_before_ms.max(body["before_ms"].as_i64().unwrap_or(i64::MIN)),
            _ => {}
        }
    }

    fn hear_judged(&mut self, entry: i64, body: &Value) {
        let lineage = body["lineage"].as_i64().unwrap_or(0);
        let window_start = body["window_start"].as_i64();
        self.lineage = lineage;
        let mut tells_all = body["models"].as_array().is_none_or(Vec::is_empty);
        for model in body["models"].as_array().into_iter().flatten() {
            tells_all |= model["state"].is_string();
            self.hear_state(entry, (lineage, model["model_version"].as_str().unwrap_or_default()), &model["state"], window_start);
        }
        self.windows.insert((lineage, window_start.unwrap_or(0)), tells_all);
        for admitted in body["admitted"].as_array().into_iter().flatten() {
            let segment = admitted[0].as_str().unwrap_or_default().to_owned();
            self.admitted.entry((lineage, segment)).or_insert((admitted[1].as_i64().unwrap_or(0), entry));
        }
    }

    fn hear_state(&mut self, entry: i64, (lineage, version): (i64, &str), digest: &Value, window_start: Option<i64>) {
        let told = digest.as_str().map(|digest| StateTold { entry, digest: digest.to_owned(), window_start });
        self.states.insert((lineage, version.to_owned()), told);
    }

    fn hear_action(&mut self, entry: &AuditEntry, body: &Value, alert: i64) {
        self.actions.push(entry.id);
        let accepted = &body["accepted"];
        if body["action"].as_str() != Some("accept") {
            return;
        }
        self.fates.insert(alert, Fate { state: AlertState::Accepted, ended_ms: Some(entry.at_ms), entry: entry.id });
        let window_start = accepted["window_start"].as_i64();
        if let Some((lineage, version)) = accepted["lineage"].as_i64().zip(accepted["model_version"].as_str()) {
            self.hear_state(entry.id, (lineage, version), &accepted["state"], window_start);
        } else {
            // An older program does not tell whose state it was: none of them is known now.
            self.states.values_mut().for_each(|state| *state = None);
        }
    }

    fn fates_of(&mut self, alerts: &Value, fate: Fate) {
        let alerts = alerts.as_array().into_iter().flatten().filter_map(Value::as_i64);
        self.fates.extend(alerts.map(|alert| (alert, fate)));
    }

    /// Alerts whose state this entry told last.
    pub(super) fn fates_at(&self, entry: i64) -> impl Iterator<Item = (i64, Fate)> {
        self.fates.iter().filter(move |(_, fate)| fate.entry == entry).map(|(id, fate)| (*id, *fate))
    }

    /// Whether the window's entry is of a program that tells all: concepts, and crossings after the first.
    pub(super) fn tells_all(&self, (lineage, window_start): (Option<i64>, i64)) -> bool {
        lineage.is_none_or(|lineage| self.windows.get(&(lineage, window_start)) != Some(&false))
    }

    /// Alerts there have to be.
    pub(super) fn knows_alert(&self, id: i64) -> bool {
        self.opened.contains_key(&id)
    }

    pub(super) fn lineage_of_alert(&self, id: i64) -> Option<i64> {
        self.opened.get(&id).map(|(lineage, _)| *lineage)
    }

    pub(super) fn opened_window_end(&self, id: i64) -> Option<i64> {
        self.opened.get(&id).map(|(_, end)| *end)
    }

    /// Actions told before this entry.
    pub(super) fn actions_before(&self, entry: i64) -> i64 {
        i64::try_from(self.actions.partition_point(|action| *action < entry)).unwrap_or(i64::MAX)
    }
}
