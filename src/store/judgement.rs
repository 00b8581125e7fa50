//! The judge's step: one window, judged once, in one transaction with everything that follows from it.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::drift::alert::AlertConcept;
use crate::drift::closed::ClosedWindow;
use crate::drift::report::{AlertChange, DriftReport};
use crate::drift::stream::StreamId;
use crate::fault;
use crate::store::codec::{self, hex};
use crate::store::detector_state::store_state;
use crate::store::error::{StoreError, StoreResult};
use crate::store::writer::Store;
use crate::store::{alerts, audit};

/// A window and what was said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// First instant of the window, ms since 1970 UTC.
    pub start_ms: i64,
    /// One past its last instant.
    pub end_ms: i64,
    /// Partial windows it was merged from: all that are stored.
    pub n_partials: usize,
    /// Model by model; empty when no record of any model fell into it.
    pub models: Vec<JudgedModel>,
    /// Segments admitted, and the first window start each is counted from; known ones are left as they are.
    pub admitted: Vec<(String, i64)>,
    /// The judge's clock, ms since 1970 UTC.
    pub judged_ms: i64,
}

/// One model version in a judged window.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedModel {
    /// What was counted.
    pub window: ClosedWindow,
    /// What was said of it.
    pub report: DriftReport,
    /// State of the detectors afterwards, in the judge's own form.
    pub state: Vec<u8>,
    /// Concepts of the streams that crossed, as alerts keep them.
    pub concepts: BTreeMap<StreamId, AlertConcept>,
}

/// What became of a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a window that was judged before changes nothing"]
pub enum JudgementOutcome {
    /// Stored.
    Stored,
    /// The window was judged before; nothing was changed.
    AlreadyJudged,
}

impl Store {
    /// Stores a judgement in one transaction: counts, report, detector states, alert changes, audit
    /// entries; and lets go of the partial counts it was merged from (their digests stay).
    ///
    /// | window            | parts named  | outcome                                           |
    /// |-------------------|--------------|---------------------------------------------------|
    /// | not judged        | all stored   | stored                                            |
    /// | not judged        | others       | `StoreError::StalePartials`, the store unchanged  |
    /// | judged            | any          | already judged, the store unchanged               |
    ///
    /// # Errors
    /// As the table says, no lineage, or the database refuses.
    pub fn commit_judgement(&mut self, judgement: &Judgement) -> StoreResult<JudgementOutcome> {
        let lineage = self.lineage();
        if lineage == 0 {
            return Err(StoreError::NoLineage);
        }
        let transaction = self.transaction()?;
        let sql = "INSERT OR IGNORE INTO windows (lineage, window_start, window_end, judged_ms) VALUES (?1, ?2, ?3, ?4)";
        let window = params![lineage, judgement.start_ms, judgement.end_ms, judgement.judged_ms];
        let inserted = transaction.prepare_cached(sql)?.execute(window)?;
        if inserted == 0 {
            return Ok(JudgementOutcome::AlreadyJudged);
        }
        release_partials(&transaction, lineage, judgement)?;
        for (segment, from_ms) in &judgement.admitted {
            let sql = "INSERT OR IGNORE INTO admitted_segments (lineage, segment, from_ms) VALUES (?1, ?2, ?3)";
            transaction.execute(sql, params![lineage, segment, from_ms])?;
        }
        let mut digests = Vec::new();
        for model in &judgement.models {
            digests.push(store_model(&transaction, lineage, model)?);
        }
        let body = json!({"lineage": lineage, "window_start": judgement.start_ms, "window_end": judgement.end_ms, "admitted": judgement.admitted, "models": digests});
        audit::append(&transaction, judgement.judged_ms, "judged", &body)?;
        for model in &judgement.models {
            for change in &model.report.changes {
                let concept = match change {
                    AlertChange::Opened(crossing) | AlertChange::CrossedAgain(crossing) => model.concepts.get(&crossing.stream),
                    _ => None,
                };
                alerts::apply_change(&transaction, lineage, &model.report.model_version, (change, concept), judgement.judged_ms)?;
            }
        }
        fault::point("judgement-written");
        transaction.commit()?;
        fault::point("judgement-stored");
        Ok(JudgementOutcome::Stored)
    }

    /// Stores a detector state outside a judgement (a rolling reference that was renewed), with an audit entry.
    ///
    /// # Errors
    /// No lineage, or the database refuses.
    pub fn put_judge_state(&mut self, model_version: &str, window_start_ms: i64, state: &[u8], now_ms: i64) -> StoreResult<()> {
        let lineage = self.lineage();
        if lineage == 0 {
            return Err(StoreError::NoLineage);
        }
        let transaction = self.transaction()?;
        store_state(&transaction, lineage, model_version, window_start_ms, state)?;
        let digest = hex(&codec::digest(state));
        let body = json!({"lineage": lineage, "model_version": model_version, "window_start": window_start_ms, "state": digest});
        audit::append(&transaction, now_ms, "detectors", &body)?;
        transaction.commit()
    }
}

fn release_partials(transaction: &Connection, lineage: i64, judgement: &Judgement) -> StoreResult<()> {
    let sql = "UPDATE partials SET counts = NULL WHERE lineage = ?1 AND window_start = ?2";
    let stored = transaction.prepare_cached(sql)?.execute(params![lineage, judgement.start_ms])?;
    if stored == judgement.n_partials {
        return Ok(());
    }
    Err(StoreError::StalePartials { start_ms: judgement.start_ms, named: judgement.n_partials, stored })
}

fn store_model(transaction: &Connection, lineage: i64, model: &JudgedModel) -> StoreResult<Value> {
    let (window, report) = (&model.window, &model.report);
    let (counts, said) = (codec::closed_bytes(window)?, codec::pack(report)?);
    let offsets = serde_json::to_string(&window.offsets).map_err(|error| StoreError::damaged("offsets to be stored", error))?;
    let rejected: u64 = window.rejected.values().sum();
    let sql = "INSERT INTO judged_models (lineage, window_start, model_version, reference, counts, report, offsets, rejected)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    transaction.prepare_cached(sql)?.execute(params![
        lineage,
        window.start_ms,
        window.model_version,
        report.reference,
        codec::compress(&counts)?,
        codec::compress(&said)?,
        offsets,
        to_sql(rejected)
    ])?;
    let sql = "INSERT INTO judged_segments
               (lineage, window_start, model_version, segment, verdict, why, records, entities, fvu, cosine, norm_ratio, l0)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let mut statement = transaction.prepare_cached(sql)?;
    for segment in &report.segments {
        let contract = &segment.contract;
        statement.execute(params![
            lineage,
            window.start_ms,
            window.model_version,
            segment.segment,
            segment.verdict.kind(),
            segment.why,
            to_sql(segment.records),
            to_sql(segment.entities),
            contract.fvu,
            contract.cosine,
            contract.norm_ratio,
            contract.l0
        ])?;
    }
    store_state(transaction, lineage, &window.model_version, window.start_ms, &model.state)?;
    Ok(json!({
        "model_version": window.model_version,
        "reference": report.reference,
        "counts": hex(&codec::digest(&counts)),
        "report": hex(&codec::digest(&said)),
        "state": hex(&codec::digest(&model.state)),
        "verdicts": report.segments.iter().map(|segment| (segment.segment.as_str(), segment.verdict.kind())).collect::<BTreeMap<_, _>>(),
    }))
}

/// Counts as SQLite keeps them: signed, 2^63 is out of reach.
fn to_sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
