//! Alerts: opened and ended by the judge, acted on by people; each change is an audit entry.

use rusqlite::{Connection, params};
use serde_json::json;

use crate::drift::alert::{ActionKind, Alert, AlertAction, AlertConcept};
use crate::drift::report::{AlertChange, AlertState, Crossing};
use crate::drift::stream::StreamId;
use crate::store::alert_rows::{More, load};
use crate::store::detector_state::store_state;
use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;
use crate::store::{audit, codec};

/// Longest mute.
const LONGEST_MUTE_MS: i64 = 366 * 86_400_000;

/// Detector state of a model after a level was accepted: stored with the action, or not at all.
#[derive(Clone, Debug)]
pub struct AcceptedState {
    /// Model version.
    pub model_version: String,
    /// Window after which the state stands.
    pub window_start_ms: i64,
    /// The state, serialised.
    pub state: Vec<u8>,
    /// Factor on what the reference expects.
    pub factor: f64,
}

impl Store {
    /// Records what an operator did to an alert: acknowledge or mute.
    ///
    /// # Errors
    /// No such alert, one that is over (mute), no name or no reason given, a mute without an end to come,
    /// an accept (see [`Store::accept`]), or the database refuses.
    pub fn act(&mut self, alert: i64, action: &AlertAction) -> StoreResult<Alert> {
        match (action.action, action.until_ms) {
            (ActionKind::Accept, _) => Err(StoreError::Refused("accepting changes the detector: its new state must come with it".into())),
            (ActionKind::Mute, until) if until.is_none_or(|until| until <= action.at_ms) => {
                Err(StoreError::Refused("a mute needs an end that is to come, so that nothing stays silent for ever".into()))
            }
            (ActionKind::Mute, Some(until)) if until.saturating_sub(action.at_ms) > LONGEST_MUTE_MS => Err(StoreError::Refused(
                "expected a mute of at most a year: a longer one is as good as for ever; accept the level instead".into(),
            )),
            _ => self.act_with(alert, action, None),
        }
    }

    /// Ends an alert as accepted, and stores the detector state in which its level is what is expected: one transaction.
    ///
    /// # Errors
    /// No such alert, one that is over, no name or no reason given, no lineage, or the database refuses.
    pub fn accept(&mut self, alert: i64, action: &AlertAction, accepted: &AcceptedState) -> StoreResult<Alert> {
        self.act_with(alert, action, Some(accepted))
    }

    fn act_with(&mut self, alert: i64, action: &AlertAction, accepted: Option<&AcceptedState>) -> StoreResult<Alert> {
        for (what, text) in [("who acts", &action.who), ("why", &action.why)] {
            if text.trim().is_empty() {
                return Err(StoreError::Refused(format!("an action needs to say {what}, found an empty text")));
            }
        }
        let lineage = self.lineage();
        let transaction = self.transaction()?;
        let found = load(&transaction, alert)?.ok_or_else(|| StoreError::NotFound { what: "alert", name: alert.to_string() })?;
        changeable(&found, action.action)?;
        transaction.execute(
            "INSERT INTO actions (alert, action, who, why, at_ms, until_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![alert, action.action.kind(), action.who, action.why, action.at_ms, action.until_ms],
        )?;
        let mut body =
            json!({"alert": alert, "action": action.action.kind(), "who": action.who, "why": action.why, "until_ms": action.until_ms});
        if let Some(AcceptedState { model_version, window_start_ms, state, factor }) = accepted {
            if lineage == 0 {
                return Err(StoreError::NoLineage);
            }
            end(&transaction, alert, AlertState::Accepted, action.at_ms)?;
            store_state(&transaction, lineage, model_version, *window_start_ms, state)?;
            let digest = codec::hex(&codec::digest(state));
            body["accepted"] = json!({"lineage": lineage, "model_version": model_version, "factor": factor, "window_start": window_start_ms, "state": digest});
        }
        audit::append(&transaction, action.at_ms, "action", &body)?;
        let changed = load(&transaction, alert)?.ok_or_else(|| StoreError::NotFound { what: "alert", name: alert.to_string() })?;
        transaction.commit()?;
        Ok(changed)
    }

    /// Records that the marked test alert was sent.
    ///
    /// # Errors
    /// The database refuses.
    pub fn record_test_alert(&mut self, who: &str, why: &str, until_ms: i64, now_ms: i64) -> StoreResult<()> {
        let transaction = self.transaction()?;
        audit::append(&transaction, now_ms, "test_alert", &json!({"who": who, "why": why, "until_ms": until_ms}))?;
        transaction.commit()
    }
}

/// Whether the alert is one that this can be done to.
///
/// # Errors
/// It is over, and not only to be acknowledged.
pub fn changeable(alert: &Alert, action: ActionKind) -> StoreResult<()> {
    if action == ActionKind::Acknowledge || alert.state == AlertState::Firing {
        return Ok(());
    }
    let why = match alert.state {
        AlertState::Ended => " since a new lineage began (what fires now has an alert of its own)",
        _ => "",
    };
    Err(StoreError::Refused(format!("alert {} is {}{why}, only a firing one can be changed", alert.id, alert.state.kind())))
}

/// Applies one change of a judged window; `concept` is what the stream shows in this SAE.
pub(super) fn apply_change(
    transaction: &Connection,
    lineage: i64,
    model_version: &str,
    (change, concept): (&AlertChange, Option<&AlertConcept>),
    now_ms: i64,
) -> StoreResult<()> {
    let firing = |model_version: &str, segment: &str, stream| newest(transaction, lineage, "firing", (model_version, segment, stream));
    match change {
        AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) => {
            if let Some(id) = firing(&crossing.model_version, &crossing.segment, crossing.stream)? {
                return cross(transaction, id, crossing, now_ms);
            }
            let id = open(transaction, lineage, crossing, concept, now_ms)?;
            write_crossing(transaction, id, crossing).map(drop)
        }
        AlertChange::Relapsing(crossing) => {
            // A store that lost the alert has nothing to write it on; the crossing is in the window's report all the same.
            let place = (&*crossing.model_version, &*crossing.segment, crossing.stream);
            let Some(id) = newest(transaction, lineage, "%", place)? else { return Ok(()) };
            cross(transaction, id, crossing, now_ms)
        }
        AlertChange::Recovered { segment, stream, window_end_ms } => {
            let Some(id) = firing(model_version, segment, *stream)? else { return Ok(()) };
            end(transaction, id, AlertState::Recovered, *window_end_ms)?;
            audit::append(transaction, now_ms, "alert_recovered", &json!({"alert": id, "window_end": window_end_ms}))
        }
    }
}

/// Ends what fires in another lineage than this one: nobody judges it any more. `at_ms` is where it ended.
pub(super) fn end_of_others(connection: &Connection, lineage: i64, at_ms: i64, now_ms: i64) -> StoreResult<()> {
    let sql = "UPDATE alerts SET state = 'ended', ended_ms = ?2 WHERE state = 'firing' AND lineage <> ?1 RETURNING id";
    let mut ended = connection.prepare(sql)?.query_map([lineage, at_ms], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    if ended.is_empty() {
        return Ok(());
    }
    ended.sort_unstable();
    let body = json!({"alerts": ended, "lineage": lineage, "ended_ms": at_ms, "why": "a new lineage began"});
    audit::append(connection, now_ms, "alerts_ended", &body)
}

/// What the lineages after this one ended, which are taken back: it fires on. Numbers of the alerts.
pub(super) fn reopen(connection: &Connection, lineage: i64) -> StoreResult<Vec<i64>> {
    let sql = "UPDATE alerts SET state = 'firing', ended_ms = NULL WHERE state = 'ended' AND lineage = ?1 RETURNING id";
    let mut reopened = connection.prepare(sql)?.query_map([lineage], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    reopened.sort_unstable();
    Ok(reopened)
}

fn open(transaction: &Connection, lineage: i64, crossing: &Crossing, concept: Option<&AlertConcept>, now_ms: i64) -> StoreResult<i64> {
    let (name, verification) = concept.and_then(|concept| concept.name.clone()).unzip();
    transaction.execute(
        "INSERT INTO alerts (lineage, state, model_version, segment, stream, alerted_ms, fingerprint, concept, verification)
         VALUES (?1, 'firing', ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            lineage,
            crossing.model_version,
            crossing.segment,
            crossing.stream.to_string(),
            now_ms,
            concept.and_then(|concept| concept.fingerprint.clone()),
            name,
            verification
        ],
    )?;
    let id = transaction.last_insert_rowid();
    let mut body = json!({"alert": id, "crossing": crossing});
    if let Some(concept) = concept {
        body["concept"] = json!(concept);
    }
    audit::append(transaction, now_ms, "alert_opened", &body)?;
    Ok(id)
}

/// A later crossing of an alert, with an entry that tells all of it: the report that holds it too goes with retention,
/// the alert stays.
fn cross(transaction: &Connection, alert: i64, crossing: &Crossing, now_ms: i64) -> StoreResult<()> {
    if write_crossing(transaction, alert, crossing)? {
        audit::append(transaction, now_ms, "alert_crossed", &json!({"alert": alert, "crossing": crossing}))?;
    }
    Ok(())
}

/// Whether it was not there before.
fn write_crossing(transaction: &Connection, alert: i64, crossing: &Crossing) -> StoreResult<bool> {
    let written = transaction.execute(
        "INSERT OR IGNORE INTO crossings (alert, window_start, window_end, direction, evidence_log, threshold_log, ratio, ratio_low,
         ratio_high, began, began_low, began_high, exposure, mde_ratio, reference, more)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            alert,
            crossing.window_start_ms,
            crossing.window_end_ms,
            crossing.direction.kind(),
            crossing.evidence_log,
            crossing.threshold_log,
            crossing.ratio,
            crossing.ratio_low,
            crossing.ratio_high,
            crossing.began_ms,
            crossing.began_low_ms,
            crossing.began_high_ms,
            crossing.exposure,
            crossing.mde_ratio,
            crossing.reference,
            More::of(crossing).map(|more| codec::pack(&more)).transpose()?
        ],
    )?;
    Ok(written > 0)
}

/// The newest alert of a place (model version, segment, stream) in the lineage whose state is like this. One of another
/// lineage is another one's: of another SAE, or counted in another way.
fn newest(
    transaction: &Connection,
    lineage: i64,
    state: &str,
    (model_version, segment, stream): (&str, &str, StreamId),
) -> StoreResult<Option<i64>> {
    let sql = "SELECT max(id) FROM alerts WHERE lineage = ?1 AND state LIKE ?2 AND model_version = ?3 AND segment = ?4 AND stream = ?5";
    Ok(transaction.query_row(sql, params![lineage, state, model_version, segment, stream.to_string()], |row| row.get(0))?)
}

fn end(transaction: &Connection, id: i64, state: AlertState, at_ms: i64) -> StoreResult<()> {
    transaction.execute("UPDATE alerts SET state = ?2, ended_ms = ?3 WHERE id = ?1", params![id, state.kind(), at_ms])?;
    Ok(())
}
