//! A judged window against its entry: the blobs by their digests, and every column that is derived from them.

use rusqlite::{OptionalExtension, Row, params};
use serde::Deserialize;
use serde_json::Value;

use super::Fault;
use super::told::Told;
use crate::drift::alert::utc_text;
use crate::drift::closed::OffsetRange;
use crate::drift::report::{ContractReport, Verdict};
use crate::store::audit::AuditEntry;
use crate::store::codec;
use crate::store::error::StoreResult;
use crate::store::reader::StoreReader;

/// What of a report stands in columns; the streams are passed over.
#[derive(Deserialize)]
struct Said {
    reference: Option<String>,
    segments: Vec<SaidOfSegment>,
}

#[derive(Deserialize)]
struct SaidOfSegment {
    segment: String,
    verdict: Verdict,
    why: Option<String>,
    records: u64,
    entities: u64,
    contract: ContractReport,
}

/// A row of `judged_models`.
struct ModelRow {
    counts: Vec<u8>,
    report: Vec<u8>,
    reference: Option<String>,
    offsets: String,
    rejected: i64,
}

impl StoreReader {
    pub(super) fn check_judged(&self, entry: &AuditEntry, body: &Value, told: &Told) -> StoreResult<Fault> {
        let (lineage, start, end) = (body["lineage"].as_i64(), body["window_start"].as_i64(), body["window_end"].as_i64());
        let window = format!("window {}", utc_text(start.unwrap_or(0)));
        let sql = "SELECT window_end IS ?3 AND judged_ms IS ?4 FROM windows WHERE lineage = ?1 AND window_start = ?2";
        let known: Option<bool> = self.connection.query_row(sql, params![lineage, start, end, entry.at_ms], |row| row.get(0)).optional()?;
        match known {
            Some(true) => {}
            Some(false) => return Ok(Some(format!("end or time of judgement of {window} are not as they were stored"))),
            None => return Ok(Some(format!("{window} is missing"))),
        }
        let pruned = end.is_some_and(|end| end <= told.pruned_before_ms);
        let models = body["models"].as_array().map(Vec::as_slice).unwrap_or_default();
        for model in models {
            if let Some(fault) = self.check_model((lineage, start), &window, model, pruned)? {
                return Ok(Some(fault));
            }
        }
        let sql = "SELECT count(*) FROM judged_models WHERE lineage = ?1 AND window_start = ?2";
        let stored: i64 = self.connection.query_row(sql, params![lineage, start], |row| row.get(0))?;
        let known = i64::try_from(models.len()).unwrap_or(i64::MAX);
        Ok((stored > known).then(|| format!("{window} holds {stored} model versions, {known} were judged")))
    }

    fn check_model(&self, (lineage, start): (Option<i64>, Option<i64>), window: &str, model: &Value, pruned: bool) -> StoreResult<Fault> {
        let version = model["model_version"].as_str();
        let sql = "SELECT counts, report, reference, offsets, rejected FROM judged_models
                   WHERE lineage = ?1 AND window_start = ?2 AND model_version = ?3";
        let row = |row: &Row<'_>| {
            Ok(ModelRow { counts: row.get(0)?, report: row.get(1)?, reference: row.get(2)?, offsets: row.get(3)?, rejected: row.get(4)? })
        };
        let found = self.connection.query_row(sql, params![lineage, start, version], row).optional()?;
        let of_model = format!("{window} of model {:?}", version.unwrap_or(""));
        let Some(found) = found else { return Ok((!pruned).then(|| format!("{of_model} is missing"))) };
        let blob = |what: &str, frame: &[u8]| {
            let bytes = codec::decompress(frame).ok()?;
            (Some(codec::hex(&codec::digest(&bytes)).as_str()) == model[what].as_str()).then_some(bytes)
        };
        let (Some(counts), report) = (blob("counts", &found.counts), blob("report", &found.report)) else {
            return Ok(Some(format!("counts of {window} are not those that were judged")));
        };
        let Some(report) = report else { return Ok(Some(format!("report of {window} is not the one that was made"))) };
        let said: Said = codec::unpack(&report)?;
        let (offsets, rejected) = codec::read_sources(&counts)?;
        let shown: Option<Vec<OffsetRange>> = serde_json::from_str(&found.offsets).ok();
        if found.reference != said.reference {
            return Ok(Some(format!("{of_model} was judged against {:?}, its row names {:?}", said.reference, found.reference)));
        }
        if shown.as_ref() != Some(&offsets) || found.rejected != to_sql(rejected) {
            return Ok(Some(format!("offsets or rejects of {of_model} are not those that were counted")));
        }
        self.check_segments((lineage, start, version), &of_model, &said.segments)
    }

    fn check_segments(
        &self,
        (lineage, start, version): (Option<i64>, Option<i64>, Option<&str>),
        of_model: &str,
        said: &[SaidOfSegment],
    ) -> StoreResult<Fault> {
        let sql = "SELECT verdict, why, records, entities, fvu, cosine, norm_ratio, l0 FROM judged_segments
                   WHERE lineage = ?1 AND window_start = ?2 AND model_version = ?3 AND segment = ?4";
        let mut statement = self.connection.prepare_cached(sql)?;
        for segment in said {
            let (name, contract) = (&segment.segment, &segment.contract);
            let same = |row: &Row<'_>| {
                let number = |idx: usize, said: Option<f64>| {
                    Ok::<_, rusqlite::Error>(row.get::<_, Option<f64>>(idx)? == said.filter(|v| !v.is_nan()))
                };
                Ok(row.get::<_, String>(0)? == segment.verdict.kind()
                    && row.get::<_, Option<String>>(1)? == segment.why
                    && row.get::<_, i64>(2)? == to_sql(segment.records)
                    && row.get::<_, i64>(3)? == to_sql(segment.entities)
                    && number(4, contract.fvu)?
                    && number(5, contract.cosine)?
                    && number(6, contract.norm_ratio)?
                    && number(7, Some(contract.l0))?)
            };
            match statement.query_row(params![lineage, start, version, name], same).optional()? {
                Some(true) => {}
                Some(false) => return Ok(Some(format!("the row of segment {name} in {of_model} is not what was said of it"))),
                None => return Ok(Some(format!("the row of segment {name} in {of_model} is missing"))),
            }
        }
        let sql = "SELECT count(*) FROM judged_segments WHERE lineage = ?1 AND window_start = ?2 AND model_version = ?3";
        let stored: i64 = self.connection.query_row(sql, params![lineage, start, version], |row| row.get(0))?;
        let known = i64::try_from(said.len()).unwrap_or(i64::MAX);
        Ok((stored != known).then(|| format!("{of_model} holds {stored} segments, {known} were judged")))
    }
}

/// As the writer keeps counts.
fn to_sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
