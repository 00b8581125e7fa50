//! Alerts read back from their rows: the alert, its crossings, what people did.

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use crate::drift::alert::{ActionKind, Alert, AlertAction, AlertConcept};
use crate::drift::report::{AlertState, Crossing, Direction, MovedWith};
use crate::drift::stream::StreamId;
use crate::store::codec;
use crate::store::error::{StoreError, StoreResult};

const COLUMNS: &str = "id, state, model_version, segment, stream, alerted_ms, ended_ms, fingerprint, concept, verification";
const CROSSING: &str = "window_start, window_end, direction, evidence_log, threshold_log, ratio, ratio_low, ratio_high, began, began_low,
                        began_high, exposure, mde_ratio, reference, more";

/// One alert by its number.
pub(super) fn load(connection: &Connection, id: i64) -> StoreResult<Option<Alert>> {
    let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = ?1");
    let header = connection.query_row(&sql, [id], header).optional()?;
    header.map(|header| complete(connection, header)).transpose()
}

/// The crossing of an alert in a window, without the rest of the alert.
pub(super) fn crossing_of(connection: &Connection, id: i64, window_start_ms: i64) -> StoreResult<Option<Crossing>> {
    let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = ?1");
    let Some(header) = connection.query_row(&sql, [id], header).optional()? else { return Ok(None) };
    let stream = stream_of(&header)?;
    let sql = format!("SELECT {CROSSING} FROM crossings WHERE alert = ?1 AND window_start = ?2");
    Ok(connection.prepare_cached(&sql)?.query_row([id, window_start_ms], |row| crossing(row, &header, stream)).optional()?)
}

/// All firing alerts and the latest `n_others` of the rest, newest first.
pub(super) fn list(connection: &Connection, n_others: usize) -> StoreResult<Vec<Alert>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM alerts
         WHERE state = 'firing' OR id IN (SELECT id FROM alerts WHERE state <> 'firing' ORDER BY id DESC LIMIT ?1)
         ORDER BY id DESC"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let headers = statement.query_map([i64::try_from(n_others).unwrap_or(i64::MAX)], header)?.collect::<Result<Vec<_>, _>>()?;
    headers.into_iter().map(|header| complete(connection, header)).collect()
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
    concept: AlertConcept,
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
        concept: AlertConcept { fingerprint: row.get(7)?, name: row.get::<_, Option<String>>(8)?.zip(row.get::<_, Option<String>>(9)?) },
    })
}

fn complete(connection: &Connection, header: Header) -> StoreResult<Alert> {
    let damaged = |found: &str| StoreError::damaged(format!("alert {}", header.id), found);
    let state = match header.state.as_str() {
        "firing" => AlertState::Firing,
        "recovered" => AlertState::Recovered,
        "accepted" => AlertState::Accepted,
        "ended" => AlertState::Ended,
        other => return Err(damaged(&format!("state {other:?}"))),
    };
    let stream = stream_of(&header)?;
    let mut statement = connection.prepare_cached(&format!("SELECT {CROSSING} FROM crossings WHERE alert = ?1 ORDER BY window_start"))?;
    let crossings = statement.query_map([header.id], |row| crossing(row, &header, stream))?.collect::<Result<Vec<_>, _>>()?;
    let (Some(opened), Some(last)) = (crossings.first().cloned(), crossings.last().cloned()) else {
        return Err(damaged("no crossing"));
    };
    Ok(Alert {
        id: header.id,
        state,
        concept: header.concept,
        opened,
        last,
        n_crossings: crossings.len() as u64,
        alerted_at_ms: header.alerted_ms,
        ended_ms: header.ended_ms,
        actions: actions(connection, header.id)?,
    })
}

fn stream_of(header: &Header) -> StoreResult<StreamId> {
    header.stream.parse().map_err(|error| StoreError::damaged(format!("alert {}", header.id), error))
}

/// What a crossing explains beside its numbers: one blob, since nothing is searched by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct More {
    rate: Option<(f64, f64, f64)>,
    part_of: Option<String>,
    moved_with: Vec<MovedWith>,
}

impl More {
    /// `None` where there is nothing more.
    pub(super) fn of(crossing: &Crossing) -> Option<Self> {
        let rate = match (crossing.rate_ratio, crossing.rate_low, crossing.rate_high) {
            (Some(ratio), Some(low), Some(high)) => Some((ratio, low, high)),
            _ => None,
        };
        let more = Self { rate, part_of: crossing.part_of.clone(), moved_with: crossing.moved_with.clone() };
        (more != Self::default()).then_some(more)
    }
}

fn crossing(row: &Row<'_>, header: &Header, stream: StreamId) -> rusqlite::Result<Crossing> {
    // SQLite keeps NaN as NULL.
    let float = |idx: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<f64>>(idx)?.unwrap_or(f64::NAN));
    // A damaged blob reads as nothing more; the chain's check finds that the alert is not the one that was opened.
    let more = row.get::<_, Option<Vec<u8>>>(14)?.and_then(|bytes| codec::unpack::<More>(&bytes).ok()).unwrap_or_default();
    Ok(Crossing {
        window_start_ms: row.get(0)?,
        window_end_ms: row.get(1)?,
        model_version: header.model_version.clone(),
        segment: header.segment.clone(),
        stream,
        direction: direction(row, 2)?,
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
        rate_ratio: more.rate.map(|(ratio, _, _)| ratio),
        rate_low: more.rate.map(|(_, low, _)| low),
        rate_high: more.rate.map(|(_, _, high)| high),
        part_of: more.part_of,
        moved_with: more.moved_with,
    })
}

fn direction(row: &Row<'_>, idx: usize) -> rusqlite::Result<Direction> {
    match row.get::<_, String>(idx)?.as_str() {
        "up" => Ok(Direction::Up),
        "down" => Ok(Direction::Down),
        other => {
            let found = format!("expected up or down, found {other:?}");
            Err(rusqlite::Error::FromSqlConversionFailure(idx, rusqlite::types::Type::Text, found.into()))
        }
    }
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
