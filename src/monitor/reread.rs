//! Judged windows' records, read again by their offsets: decoded, encoded and counted by the same code as live.
//!
//! For proof (`history recount`) and for explanation (which records show an alarmed concept). What a window
//! was counted from is known by offsets and by the segments it names; neither depends on what the
//! monitor has learned since.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{CountingUnit, Settings};
use crate::decode::Decoder;
use crate::drift::closed::{ALL, OTHER, OffsetRange, PartialWindow};
use crate::drift::counts::residual_bin;
use crate::drift::partition::{PartitionPosition, PartitionWindows};
use crate::drift::segment::SegmentTable;
use crate::drift::window::{CountedRow, CountingSpec, WindowSpec};
use crate::drift::witness::Seen;
use crate::encode::Encoder;
use crate::kafka::range::RangeReader;
use crate::monitor::admission::{Admission, AdmissionBoard, segment_fields};
use crate::monitor::counting::fit;
use crate::monitor::error::MonitorError;
use crate::monitor::intake::{Intake, IntakeRules, Taken};
use crate::monitor::models::Models;
use crate::sae::activation::SparseActivations;

/// Longest wait of a command for the broker.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Sees each record of the windows asked for, with its model version's label.
pub type Each<'a> = &'a mut dyn FnMut(&str, &Seen<'_>);

/// Reads windows again.
pub struct Reread {
    settings: Settings,
    models: Models,
    encoders: Vec<Box<dyn Encoder>>,
    specs: Vec<(String, CountingSpec)>,
    window: WindowSpec,
    salt: [u8; 16],
    patience: Duration,
    log: Option<RangeReader>,
}

/// One partition's records being read.
struct Reading<'a> {
    intake: Intake,
    windows: PartitionWindows,
    /// Items of the rows that wait in each model's batch.
    items: Vec<Vec<Vec<String>>>,
    /// Starts of the windows asked for.
    starts_ms: Range<i64>,
    each: Each<'a>,
}

impl Reread {
    /// With models that are open; entities are hashed with `salt`, the broker is waited for as long as `patience`.
    ///
    /// # Errors
    /// An encoder is refused.
    pub fn new(models: Models, settings: &Settings, salt: [u8; 16], patience: Duration) -> Result<Self, MonitorError> {
        let fault = |fault| MonitorError::Config(vec![fault]);
        Ok(Self {
            encoders: models.encoders(settings)?,
            specs: models.counting(settings),
            window: WindowSpec {
                length_ms: settings.window.length_ms(),
                origin_ms: settings.window.origin_ms().map_err(fault)?,
                lateness_ms: i64::try_from(settings.window.lateness.as_millis()).unwrap_or(i64::MAX),
            },
            models,
            settings: settings.clone(),
            salt,
            patience,
            log: None,
        })
    }

    /// Labels of the models, in the configuration's order.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.models.labels
    }

    /// Reads the window that starts at `start_ms` from its offsets, with the segments it named. Returns its parts, as a
    /// worker would have closed them, in the order of `offsets`.
    ///
    /// # Errors
    /// The broker no longer has the records, or an engine failed.
    pub fn window(&mut self, start_ms: i64, offsets: &[OffsetRange], segments: &[String]) -> Result<Vec<PartialWindow>, MonitorError> {
        let mut parts = Vec::new();
        for range in offsets {
            let (mut windows, table) = self.read(start_ms..start_ms + 1, range, segments, &|| false, &mut |_, _| {})?;
            // Closed by hand: what closed it live may lie behind its last record.
            windows.raise_watermark(i64::MAX / 2);
            parts.extend(windows.close_due(&self.specs, &table).into_iter().find(|part| part.start_ms == start_ms));
        }
        Ok(parts)
    }

    /// Shows every record of the windows that start in `starts_ms`, from stretches of the log that hold them. Bit `2 + i`
    /// of a record's segments is the i-th of `segments`, `_all` and `_other` left out; those are bits 0 and 1.
    ///
    /// # Errors
    /// As [`Reread::window`]. Ends early, without an error, once `stop` says so.
    pub fn records(
        &mut self,
        starts_ms: Range<i64>,
        offsets: &[OffsetRange],
        segments: &[String],
        stop: &dyn Fn() -> bool,
        each: Each<'_>,
    ) -> Result<(), MonitorError> {
        for range in offsets {
            self.read(starts_ms.clone(), range, segments, stop, each)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        starts_ms: Range<i64>,
        range: &OffsetRange,
        segments: &[String],
        stop: &dyn Fn() -> bool,
        each: Each<'_>,
    ) -> Result<(PartitionWindows, SegmentTable), MonitorError> {
        let board = AdmissionBoard::new(named(segments).map(|name| Admission { segment: name.clone(), from_ms: i64::MIN }).collect(), None);
        let mut reading = Reading {
            intake: self.intake(segments.len())?,
            windows: PartitionWindows::resume(range.partition.clone(), self.window, PartitionPosition::starting_at(range.from)),
            items: vec![Vec::new(); self.specs.len()],
            starts_ms,
            each,
        };
        let mut failed = None;
        let batch = self.settings.encode.batch.max(1);
        // Taken out while it reads, and left out where it failed: the next stretch connects anew.
        let mut log = self.log.take().map_or_else(|| RangeReader::new(&self.settings.kafka, self.patience), Ok)?;
        log.read(&range.partition, range.from..range.to, stop, |message| {
            if failed.is_some() {
                return;
            }
            if reading.intake.take(&message, 0, &mut reading.windows, &board) == Taken::Pending {
                // The batch that has grown is the record's model.
                let grown = reading.intake.batches.iter().zip(&reading.items).position(|(batch, items)| batch.rows.len() > items.len());
                let Some(model) = grown else { return };
                reading.items[model].push(reading.intake.record().items.clone());
                if reading.items[model].len() >= batch {
                    failed = self.flush(&mut reading).err();
                }
            }
        })?;
        self.log = Some(log);
        if let Some(error) = failed {
            return Err(error);
        }
        self.flush(&mut reading)?;
        let table = reading.intake.table().clone();
        Ok((reading.windows, table))
    }

    fn flush(&mut self, reading: &mut Reading<'_>) -> Result<(), MonitorError> {
        let mut activations = SparseActivations::default();
        let mut reconstruction = Vec::new();
        let partition = reading.windows.partition().clone();
        for (model, batch) in reading.intake.batches.iter_mut().enumerate().filter(|(_, batch)| !batch.rows.is_empty()) {
            self.encoders[model].encode(&batch.embeddings, &mut activations)?;
            let bundle = Arc::clone(&self.models.bundles[model]);
            let (label, spec) = &self.specs[model];
            for (i, row) in batch.rows.iter().enumerate() {
                let (latents, values) = activations.row(i);
                let embedding = batch.embeddings.row(i);
                let fit = bundle.decoder().map(|decoder| fit(decoder.row_error(embedding, latents, values, &mut reconstruction)));
                let counted = CountedRow { entity: row.entity, segments: row.segments, embedding, latents, values, fit };
                reading.windows.count(row.window_start_ms, row.offset, model, spec, &counted);
                if reading.starts_ms.contains(&row.window_start_ms) {
                    let items = reading.items[model].get(i).map_or(&[][..], Vec::as_slice);
                    let residual_bin = fit.map(|fit| residual_bin(fit.squared_error / fit.squared_norm));
                    let (offset, entity, segments) = (row.offset, row.entity, row.segments);
                    (reading.each)(label, &Seen { partition: &partition, offset, entity, items, segments, latents, values, residual_bin });
                }
            }
            batch.embeddings.clear();
            batch.rows.clear();
            reading.items[model].clear();
        }
        Ok(())
    }

    fn intake(&self, n_segments: usize) -> Result<Intake, MonitorError> {
        let settings = &self.settings;
        let decoder = Decoder::new(&settings.record, &settings.segments.fields, &self.salt)?;
        let rules = IntakeRules {
            needs_entity: settings.counting.unit != CountingUnit::Records,
            future_tolerance_ms: i64::try_from(settings.window.future_tolerance.as_millis()).unwrap_or(i64::MAX),
        };
        let table = SegmentTable::new(segment_fields(settings), settings.segments.max.max(n_segments + 2));
        Ok(Intake::new(decoder, rules, self.models.index.clone(), table, self.models.empty_batches()))
    }
}

/// Position of a segment in the records' masks; `None` where it is none of `segments`.
#[must_use]
pub fn position_of(segment: &str, segments: &[String]) -> Option<usize> {
    match segment {
        ALL => Some(0),
        OTHER => Some(1),
        _ => named(segments).position(|name| name == segment).map(|position| position + 2),
    }
}

fn named(segments: &[String]) -> impl Iterator<Item = &String> {
    segments.iter().filter(|name| *name != ALL && *name != OTHER)
}
