//! Reads a windows file (long form, one row a stream, or a stream and session-length bucket) into windows to judge.
//!
//! Files come from `recsae history export` and from other programs, so every row is checked and what is
//! wrong is said with row and column. Rows may come in any order. Read twice: once for the windows'
//! starts, so that the large table by session length is kept for the reference's windows only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::drift::alert::utc_text;
use crate::drift::closed::ALL;
use crate::drift::counts::{BUCKET_EDGES, N_BUCKETS};
use crate::drift::observed::{Observed, ObservedWindow};
use crate::drift::settings::CountingUnit;
use crate::drift::stream::StreamId;
use crate::workshop::windows_columns::{Columns, KEYS, WindowsFileError};
use crate::workshop::windows_seen::{Row, Seen, grow};

const ALL_COLUMNS: [&str; 7] = ["window_start", "window_end", "model_version", "segment", "stream", "bucket", "value"];
const BATCH_ROWS: usize = 65_536;
/// Latents above this are a typing error, not an SAE; each costs a number a window.
pub const MAX_LATENTS: u32 = 1 << 20;

/// The windows of a file.
#[derive(Debug)]
pub struct WindowsFile {
    /// Model version to its windows, in order of time.
    pub models: BTreeMap<String, Vec<ObservedWindow>>,
    /// One more than the largest latent named.
    pub n_latents: usize,
}

/// Reads a file that is judged in that unit; of each model the first `n_reference` windows keep their table by session length.
///
/// # Errors
/// The file is unreadable, or a row is malformed: the error names row and column.
pub fn read_windows(
    path: &Path,
    unit: CountingUnit,
    n_reference: impl Fn(&BTreeSet<i64>) -> usize,
) -> Result<WindowsFile, WindowsFileError> {
    let mut starts: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for_each_batch(path, &KEYS, |columns, n_rows| {
        let mut last = None;
        for i in 0..n_rows {
            let (model, start) = (columns.model_version(i)?, columns.start_ms(i)?);
            if last != Some(start) || !starts.contains_key(model) {
                starts.entry(model.to_owned()).or_default().insert(start);
                last = Some(start);
            }
        }
        Ok(())
    })?;
    if starts.is_empty() {
        return Err(WindowsFileError::Empty { path: path.to_owned() });
    }
    let tables_until: BTreeMap<&str, i64> = starts
        .iter()
        .map(|(model, starts)| (model.as_str(), starts.iter().nth(n_reference(starts)).copied().unwrap_or(i64::MAX)))
        .collect();

    let mut gathered = Gathered::default();
    for_each_batch(path, &ALL_COLUMNS, |columns, n_rows| gathered.add(columns, n_rows, &tables_until))?;
    gathered.finish(path, unit)
}

#[derive(Default)]
struct Gathered {
    models: BTreeMap<String, BTreeMap<i64, Window>>,
    streams: HashMap<String, Row>,
    n_latents: usize,
    /// Length of the first window: all have it.
    length_ms: Option<i64>,
}

/// A window while it is read.
struct Window {
    observed: ObservedWindow,
    /// Its first row in the file.
    row: usize,
    /// Rows that were there, segment by segment.
    seen: BTreeMap<String, Seen>,
}

impl Gathered {
    fn add(&mut self, columns: &Columns<'_>, n_rows: usize, tables_until: &BTreeMap<&str, i64>) -> Result<(), WindowsFileError> {
        for i in 0..n_rows {
            let (model, start_ms, segment) = (columns.model_version(i)?, columns.start_ms(i)?, columns.segment(i)?);
            let row = self.row_kind(columns, i)?;
            let value = columns.value(i)?;
            let end_ms = columns.end_ms(i)?;
            if end_ms <= start_ms {
                return Err(columns.wrong(i, "window_end", "a time after window_start", utc_text(end_ms)));
            }
            let length_ms = *self.length_ms.get_or_insert(end_ms - start_ms);
            if !self.models.contains_key(model) {
                self.models.insert(model.to_owned(), BTreeMap::new());
            }
            let Some(windows) = self.models.get_mut(model) else { continue };
            let Window { observed: window, seen, .. } = windows.entry(start_ms).or_insert_with(|| Window {
                observed: ObservedWindow { start_ms, end_ms, model_version: model.to_owned(), incomplete: None, segments: BTreeMap::new() },
                row: columns.row(i),
                seen: BTreeMap::new(),
            });
            if window.end_ms != end_ms {
                let expected = format!("{} as in the window's other rows", utc_text(window.end_ms));
                return Err(columns.wrong(i, "window_end", expected, utc_text(end_ms)));
            }
            if end_ms - start_ms != length_ms {
                let expected = format!("{} after window_start, as the file's first window is long", seconds(length_ms));
                return Err(columns.wrong(i, "window_end", expected, seconds(end_ms - start_ms)));
            }
            if !window.segments.contains_key(segment) {
                window.segments.insert(segment.to_owned(), Observed::default());
                seen.insert(segment.to_owned(), Seen::default());
            }
            let (Some(observed), Some(seen)) = (window.segments.get_mut(segment), seen.get_mut(segment)) else { continue };
            let in_bucket = bucket(columns, i)?;
            if let Err(expected) = seen.see(row, in_bucket) {
                return Err(columns.wrong(i, "stream", expected, columns.stream(i)?));
            }
            let keeps_table = segment == ALL && tables_until.get(model).is_some_and(|until| start_ms < *until);
            match row {
                Row::Latent(latent) => {
                    grow(&mut observed.latents, latent + 1);
                    observed.latents[latent] += value;
                    if let (true, Some(bucket)) = (keeps_table, in_bucket) {
                        // Latent-major while reading, since the number of latents is not known yet.
                        grow(&mut observed.by_bucket, (latent + 1) * N_BUCKETS);
                        observed.by_bucket[latent * N_BUCKETS + bucket] += value;
                    }
                }
                Row::Entities => match in_bucket {
                    Some(bucket) => observed.entities[bucket] += value,
                    None => return Err(columns.wrong(i, "bucket", "the lower edge of a session-length bucket for entities", "null")),
                },
                Row::ResidualOutlier => *observed.residual_outlier.get_or_insert(0.0) += value,
                Row::DeadRecord => *observed.dead_record.get_or_insert(0.0) += value,
                Row::Records => observed.records += value,
                Row::KishExposure => observed.kish_exposure += value,
                Row::Ignored => {}
            }
        }
        Ok(())
    }

    fn row_kind(&mut self, columns: &Columns<'_>, i: usize) -> Result<Row, WindowsFileError> {
        let text = columns.stream(i)?;
        if let Some(row) = self.streams.get(text) {
            return Ok(*row);
        }
        let row = match text {
            "entities" => Row::Entities,
            "records" => Row::Records,
            "kish_exposure" => Row::KishExposure,
            _ => match text.parse::<StreamId>() {
                Ok(StreamId::Latent(latent)) if latent.0 < MAX_LATENTS => Row::Latent(latent.index()),
                Ok(StreamId::Latent(_)) => {
                    return Err(columns.wrong(i, "stream", format!("a latent below {MAX_LATENTS}"), text));
                }
                Ok(StreamId::Family(_)) => Row::Ignored,
                Ok(StreamId::ResidualOutlier) => Row::ResidualOutlier,
                Ok(StreamId::DeadRecord) => Row::DeadRecord,
                Err(_) => {
                    let expected = "latent:N, family:N, residual_outlier, dead_record, entities, records or kish_exposure";
                    return Err(columns.wrong(i, "stream", expected, format!("{text:?}")));
                }
            },
        };
        if let Row::Latent(latent) = row {
            self.n_latents = self.n_latents.max(latent + 1);
        }
        self.streams.insert(text.to_owned(), row);
        Ok(row)
    }

    fn finish(self, path: &Path, unit: CountingUnit) -> Result<WindowsFile, WindowsFileError> {
        for windows in self.models.values() {
            for (before, window) in windows.values().zip(windows.values().skip(1)) {
                if window.observed.start_ms < before.observed.end_ms {
                    return Err(WindowsFileError::Value {
                        path: path.to_owned(),
                        // The one that came later in the file is the stranger.
                        row: before.row.max(window.row),
                        column: KEYS[0],
                        expected: "windows of a model version that do not overlap".to_owned(),
                        found: format!("{} and {}", utc_text(before.observed.start_ms), utc_text(window.observed.start_ms)),
                    });
                }
            }
        }
        for window in self.models.values().flat_map(BTreeMap::values) {
            for (segment, observed) in &window.observed.segments {
                if let (CountingUnit::Presence, Some((latent, found))) = (unit, beyond_entities(observed, &window.seen[segment])) {
                    return Err(WindowsFileError::Value {
                        path: path.to_owned(),
                        row: window.row,
                        column: "value",
                        expected: format!(
                            "of each latent told by session length at most the entities there are ({} in {segment}), in the window that begins in this row",
                            observed.entities.iter().sum::<f64>()
                        ),
                        found: format!("latent:{latent} {found}; counts of records are judged with [counting] unit = \"records\""),
                    });
                }
            }
        }
        let m = self.n_latents;
        let finish_window = |window: Window| {
            let mut window = window.observed;
            for observed in window.segments.values_mut() {
                observed.latents.resize(m, 0.0);
                if observed.kish_exposure <= 0.0 {
                    observed.kish_exposure = observed.records;
                }
                if !observed.by_bucket.is_empty() {
                    observed.by_bucket = bucket_major(&observed.by_bucket, m);
                }
            }
            window
        };
        let models = self.models.into_iter().map(|(model, windows)| (model, windows.into_values().map(finish_window).collect())).collect();
        Ok(WindowsFile { models, n_latents: m })
    }
}

/// A latent told by session length, so by presence, that more entities show than there are, and how many.
fn beyond_entities(observed: &Observed, seen: &Seen) -> Option<(usize, f64)> {
    let entities: f64 = observed.entities.iter().sum();
    let beyond = |&(latent, value): &(usize, f64)| value > entities * (1.0 + 1e-9) && seen.is_in_parts(Row::Latent(latent));
    observed.latents.iter().copied().enumerate().find(beyond)
}

fn seconds(ms: i64) -> String {
    format!("{} s", ms as f64 / 1e3)
}

fn bucket(columns: &Columns<'_>, i: usize) -> Result<Option<usize>, WindowsFileError> {
    let Some(edge) = columns.bucket(i)? else { return Ok(None) };
    let found = BUCKET_EDGES.iter().position(|known| i64::from(*known) == edge);
    found.map(Some).ok_or_else(|| columns.wrong(i, "bucket", format!("null or one of {BUCKET_EDGES:?}"), edge.to_string()))
}

fn bucket_major(latent_major: &[f64], m: usize) -> Vec<f64> {
    let mut table = vec![0.0; N_BUCKETS * m];
    for (latent, of) in latent_major.chunks_exact(N_BUCKETS).enumerate() {
        for (bucket, value) in of.iter().enumerate() {
            table[bucket * m + latent] = *value;
        }
    }
    table
}

fn for_each_batch(
    path: &Path,
    names: &[&str],
    mut each: impl FnMut(&Columns<'_>, usize) -> Result<(), WindowsFileError>,
) -> Result<(), WindowsFileError> {
    let file = File::open(path).map_err(|source| WindowsFileError::Open { path: path.to_owned(), source })?;
    let parquet = |source| WindowsFileError::Parquet { path: path.to_owned(), source };
    // Without the writer's own Arrow types, text is plain text, whoever wrote it.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(parquet)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(parquet)?;
    let mut row = 0;
    for batch in reader {
        let batch: RecordBatch = batch.map_err(|source| WindowsFileError::Decode { path: path.to_owned(), row, source })?;
        let columns = if names.len() == KEYS.len() { Columns::keys_of(path, row, &batch)? } else { Columns::of(path, row, &batch)? };
        each(&columns, batch.num_rows())?;
        row += batch.num_rows();
    }
    Ok(())
}
