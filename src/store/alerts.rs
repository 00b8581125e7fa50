//! Alerts: opened and ended by the judge, acted on by people; each change is an audit entry.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::json;

use crate::drift::alert::{ActionKind, Alert, AlertAction};
use crate::drift::report::{AlertChange, AlertState, Crossing, Direction};
use crate::drift::stream::StreamId;
use crate::store::Store;
use crate::store::audit;
use crate::store::error::{StoreError, StoreResult};

impl Store {
    /// Records what an operator did to an alert. An accepted alert is over.
    ///
    /// # Errors
    /// No such alert, one that is over (accept and mute), no name or no reason given, or the database refuses.
    pub fn act(&mut self, alert: i64, action: &AlertAction) -> StoreResult<Alert> {
        for (what, text) in [("who acts", &action.who), ("why", &action.why)] {
            if text.trim().is_empty() {
                return Err(StoreError::Refused(format!("an action needs to say {what}, found an empty text")));
            }
        }
        let transaction = self.transaction()?;
        let found = load(&transaction, alert)?.ok_or_else(|| StoreError::NotFound { what: "alert", name: alert.to_string() })?;
        if action.action != ActionKind::Acknowledge && found.state != AlertState::Firing {
            return Err(StoreError::Refused(format!("alert {alert} is {}, only a firing one can be changed", state_name(found.state))));
        }
        transaction.execute(
            "INSERT INTO actions (alert, action, who, why, at_ms, until_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![alert, action.action.kind(), action.who, action.why, action.at_ms, action.until_ms],
        )?;
        if action.action == ActionKind::Accept {
            end(&transaction, alert, AlertState::Accepted, action.at_ms)?;
        }
        let body =
            json!({"alert": alert, "action": action.action.kind(), "who": action.who, "why": action.why, "until_ms": action.until_ms});
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
        AlertChange::Recovered { segment, stream, window_end_ms } => {
            let Some(id) = firing(transaction, model_version, segment, *stream)? else { return Ok(()) };
            end(transaction, id, AlertState::Recovered, *window_end_ms)?;
            audit::append(transaction, now_ms, "alert_recovered", &json!({"alert": id, "window_end": window_end_ms}))
        }
    }
}

/// One alert by its number.
pub(super) fn load(connection: &Connection, id: i64) -> StoreResult<Option<Alert>> {
    let sql = "SELECT id, state, model_version, segment, stream, alerted_ms, ended_ms FROM alerts WHERE id = ?1";
    let header = connection.query_row(sql, [id], header).optional()?;
    header.map(|header| complete(connection, header)).transpose()
}

/// All firing alerts and the latest `n_others` of the rest, newest first.
pub(super) fn list(connection: &Connection, n_others: usize) -> StoreResult<Vec<Alert>> {
    let sql = "SELECT id, state, model_version, segment, stream, alerted_ms, ended_ms FROM alerts
               WHERE state = 'firing' OR id IN (SELECT id FROM alerts WHERE state <> 'firing' ORDER BY id DESC LIMIT ?1)
               ORDER BY id DESC";
    let mut statement = connection.prepare_cached(sql)?;
    let headers = statement.query_map([i64::try_from(n_others).unwrap_or(i64::MAX)], header)?.collect::<Result<Vec<_>, _>>()?;
    headers.into_iter().map(|header| complete(connection, header)).collect()
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
         ratio_high, began, began_low, began_high, exposure, mde_ratio, reference)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
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
            crossing.reference
        ],
    )?;
    Ok(())
}

fn firing(transaction: &Transaction<'_>, model_version: &str, segment: &str, stream: StreamId) -> StoreResult<Option<i64>> {
    let sql = "SELECT max(id) FROM alerts WHERE state = 'firing' AND model_version = ?1 AND segment = ?2 AND stream = ?3";
    Ok(transaction.query_row(sql, params![model_version, segment, stream.to_string()], |row| row.get(0))?)
}

fn end(transaction: &Transaction<'_>, id: i64, state: AlertState, at_ms: i64) -> StoreResult<()> {
    transaction.execute("UPDATE alerts SET state = ?2, ended_ms = ?3 WHERE id = ?1", params![id, state_name(state), at_ms])?;
    Ok(())
}

/// An alert's own row, before its crossings and actions are read.
struct Header {
    id: i64,
    state: String,
    model_version: String,
    segment: String,
    stream: String,
    alerted_ms: i64,
    ended_ms: Option<i64>,
}

fn header(row: &Row<'_>) -> rusqlite::Result<Header> {
    Ok(Header {
        id: row.get(0)?,
        state: row.get(1)?,
        model_version: row.get(2)?,
        segment: row.get(3)?,
        stream: row.get(4)?,
        alerted_ms: row.get(5)?,
        ended_ms: row.get(6)?,
    })
}

fn complete(connection: &Connection, header: Header) -> StoreResult<Alert> {
    let damaged = |found: &str| StoreError::damaged(format!("alert {}", header.id), found);
    let state = match header.state.as_str() {
        "firing" => AlertState::Firing,
        "recovered" => AlertState::Recovered,
        "accepted" => AlertState::Accepted,
        other => return Err(damaged(&format!("state {other:?}"))),
    };
    let stream: StreamId = header.stream.parse().map_err(|error| damaged(&format!("{error}")))?;
    let mut statement = connection.prepare_cached(
        "SELECT window_start, window_end, direction, evidence_log, threshold_log, ratio, ratio_low, ratio_high, began, began_low,
         began_high, exposure, mde_ratio, reference FROM crossings WHERE alert = ?1 ORDER BY window_start",
    )?;
    let crossings = statement.query_map([header.id], |row| crossing(row, &header, stream))?.collect::<Result<Vec<_>, _>>()?;
    let (Some(opened), Some(last)) = (crossings.first().cloned(), crossings.last().cloned()) else {
        return Err(damaged("no crossing"));
    };
    Ok(Alert {
        id: header.id,
        state,
        opened,
        last,
        n_crossings: crossings.len() as u64,
        alerted_at_ms: header.alerted_ms,
        ended_ms: header.ended_ms,
        actions: actions(connection, header.id)?,
    })
}

fn crossing(row: &Row<'_>, header: &Header, stream: StreamId) -> rusqlite::Result<Crossing> {
    // SQLite keeps NaN as NULL.
    let float = |idx: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<f64>>(idx)?.unwrap_or(f64::NAN));
    Ok(Crossing {
        window_start_ms: row.get(0)?,
        window_end_ms: row.get(1)?,
        model_version: header.model_version.clone(),
        segment: header.segment.clone(),
        stream,
        direction: if row.get::<_, String>(2)? == "up" { Direction::Up } else { Direction::Down },
        evidence_log: float(3)?,
        threshold_log: float(4)?,
        ratio: float(5)?,
        ratio_low: float(6)?,
        ratio_high: float(7)?,
        began_ms: row.get(8)?,
        began_low_ms: row.get(9)?,
        began_high_ms: row.get(10)?,
        exposure: float(11)?,
        mde_ratio: float(12)?,
        reference: row.get(13)?,
    })
}

fn actions(connection: &Connection, alert: i64) -> StoreResult<Vec<AlertAction>> {
    let mut statement = connection.prepare_cached("SELECT action, who, why, at_ms, until_ms FROM actions WHERE alert = ?1 ORDER BY id")?;
    let rows = statement.query_map([alert], |row| {
        let action = match row.get::<_, String>(0)?.as_str() {
            "accept" => ActionKind::Accept,
            "mute" => ActionKind::Mute,
            _ => ActionKind::Acknowledge,
        };
        Ok(AlertAction { action, who: row.get(1)?, why: row.get(2)?, at_ms: row.get(3)?, until_ms: row.get(4)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn state_name(state: AlertState) -> &'static str {
    match state {
        AlertState::Firing => "firing",
        AlertState::Recovered => "recovered",
        AlertState::Accepted => "accepted",
    }
}
