//! Alerts: opened and ended by the judge, acted on by people; each change is an audit entry.

use rusqlite::{Transaction, params};
use serde_json::json;

use crate::drift::alert::{ActionKind, Alert, AlertAction};
use crate::drift::report::{AlertChange, AlertState, Crossing};
use crate::drift::stream::StreamId;
use crate::store::alert_rows::{More, load, state_name};
use crate::store::detector_state::store_state;
use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;
use crate::store::{audit, codec};

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
        if action.action != ActionKind::Acknowledge && found.state != AlertState::Firing {
            return Err(StoreError::Refused(format!("alert {alert} is {}, only a firing one can be changed", state_name(found.state))));
        }
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
            body["accepted"] = json!({"factor": factor, "window_start": window_start_ms, "state": codec::hex(&codec::digest(state))});
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
        Ok(transaction.commit()?)
    }
}

/// Applies one change of a judged window.
pub(super) fn apply_change(
    transaction: &Transaction<'_>,
    lineage: i64,
    model_version: &str,
    change: &AlertChange,
    now_ms: i64,
) -> StoreResult<()> {
    match change {
        AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) => {
            let firing = firing(transaction, &crossing.model_version, &crossing.segment, crossing.stream)?;
            let id = match firing {
                Some(id) => id,
                None => open(transaction, lineage, crossing, now_ms)?,
            };
            write_crossing(transaction, id, crossing)
        }
        AlertChange::Relapsing(crossing) => {
            // A store that lost the alert has nothing to write it on; the crossing is in the window's report all the same.
            let Some(id) = latest(transaction, &crossing.model_version, &crossing.segment, crossing.stream)? else { return Ok(()) };
            write_crossing(transaction, id, crossing)
        }
        AlertChange::Recovered { segment, stream, window_end_ms } => {
            let Some(id) = firing(transaction, model_version, segment, *stream)? else { return Ok(()) };
            end(transaction, id, AlertState::Recovered, *window_end_ms)?;
            audit::append(transaction, now_ms, "alert_recovered", &json!({"alert": id, "window_end": window_end_ms}))
        }
    }
}

fn open(transaction: &Transaction<'_>, lineage: i64, crossing: &Crossing, now_ms: i64) -> StoreResult<i64> {
    transaction.execute(
        "INSERT INTO alerts (lineage, state, model_version, segment, stream, alerted_ms) VALUES (?1, 'firing', ?2, ?3, ?4, ?5)",
        params![lineage, crossing.model_version, crossing.segment, crossing.stream.to_string(), now_ms],
    )?;
    let id = transaction.last_insert_rowid();
    let body = json!({"alert": id, "crossing": crossing});
    audit::append(transaction, now_ms, "alert_opened", &body)?;
    Ok(id)
}

fn write_crossing(transaction: &Transaction<'_>, alert: i64, crossing: &Crossing) -> StoreResult<()> {
    transaction.execute(
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
    Ok(())
}

fn firing(transaction: &Transaction<'_>, model_version: &str, segment: &str, stream: StreamId) -> StoreResult<Option<i64>> {
    let sql = "SELECT max(id) FROM alerts WHERE state = 'firing' AND model_version = ?1 AND segment = ?2 AND stream = ?3";
    Ok(transaction.query_row(sql, params![model_version, segment, stream.to_string()], |row| row.get(0))?)
}

fn latest(transaction: &Transaction<'_>, model_version: &str, segment: &str, stream: StreamId) -> StoreResult<Option<i64>> {
    let sql = "SELECT max(id) FROM alerts WHERE model_version = ?1 AND segment = ?2 AND stream = ?3";
    Ok(transaction.query_row(sql, params![model_version, segment, stream.to_string()], |row| row.get(0))?)
}

fn end(transaction: &Transaction<'_>, id: i64, state: AlertState, at_ms: i64) -> StoreResult<()> {
    transaction.execute("UPDATE alerts SET state = ?2, ended_ms = ?3 WHERE id = ?1", params![id, state_name(state), at_ms])?;
    Ok(())
}
