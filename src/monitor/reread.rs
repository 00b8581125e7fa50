//! A judged window's records, read again by their offsets: decoded, encoded and counted by the same code as live.
//!
//! For proof (`history recount`) and for explanation (which records show an alarmed concept). What a window
//! was counted from is known by offsets and by the segments it names; neither depends on what the
//! monitor has learned since.

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{CountingUnit, Settings};
use crate::decode::Decoder;
use crate::drift::closed::{ALL, OTHER, OffsetRange, PartialWindow};
use crate::drift::partition::{PartitionPosition, PartitionWindows};
use crate::drift::segment::{SegmentMask, SegmentTable};
use crate::drift::window::{CountedRow, CountingSpec, WindowSpec};
use crate::encode::Encoder;
use crate::kafka::range::read_range;
use crate::monitor::admission::{Admission, AdmissionBoard};
use crate::monitor::counting::fit;
use crate::monitor::error::MonitorError;
use crate::monitor::intake::{Intake, IntakeRules, Taken};
use crate::monitor::models::Models;
use crate::monitor::setup::segment_fields;
use crate::record::TopicPartition;
use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;

/// Longest wait for the broker.
const PATIENCE: Duration = Duration::from_secs(15);

/// A record of the window, as it was counted.
#[derive(Clone, Copy, Debug)]
pub struct SeenRow<'a> {
    /// Where it lies.
    pub partition: &'a TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Its model version's label.
    pub model_version: &'a str,
    /// Its entity's salted hash.
    pub entity: Option<u64>,
    /// Recommended items.
    pub items: &'a [String],
    /// Whether a segment (by its place in the names given) holds it; `_all` is bit 0, `_other` bit 1.
    pub segments: SegmentMask,
    /// Active latents.
    pub latents: &'a [LatentId],
    /// Their values.
    pub values: &'a [f32],
}

/// Reads windows again.
pub struct Reread {
    settings: Settings,
    models: Models,
    encoders: Vec<Box<dyn Encoder>>,
    specs: Vec<(String, CountingSpec)>,
    window: WindowSpec,
    salt: [u8; 16],
}

impl Reread {
    /// With the models of the configuration; entities are hashed with `salt`.
    ///
    /// # Errors
    /// A bundle or an encoder is refused.
    pub fn open(settings: &Settings, salt: [u8; 16]) -> Result<Self, MonitorError> {
        let models = Models::open(settings)?;
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
        })
    }

    /// Labels of the models, in the configuration's order.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.models.labels
    }

    /// Reads the window that starts at `start_ms` from its offsets, with the segments it named. `each` sees every
    /// record that was counted in it. Returns its parts, as a worker would have closed them, in the order of `offsets`.
    ///
    /// # Errors
    /// The broker no longer has the records, or an engine failed.
    pub fn window(
        &mut self,
        start_ms: i64,
        offsets: &[OffsetRange],
        segments: &[String],
        each: &mut dyn FnMut(&SeenRow<'_>),
    ) -> Result<Vec<PartialWindow>, MonitorError> {
        offsets.iter().filter_map(|range| self.part(start_ms, range, segments, each).transpose()).collect()
    }

    fn part(
        &mut self,
        start_ms: i64,
        range: &OffsetRange,
        segments: &[String],
        each: &mut dyn FnMut(&SeenRow<'_>),
    ) -> Result<Option<PartialWindow>, MonitorError> {
        let mut intake = self.intake(segments.len())?;
        let names = segments.iter().filter(|name| *name != ALL && *name != OTHER);
        let board = AdmissionBoard::new(names.map(|name| Admission { segment: name.clone(), from_ms: i64::MIN }).collect(), None);
        let mut windows = PartitionWindows::resume(range.partition.clone(), self.window, PartitionPosition::starting_at(range.from));
        let mut items: Vec<Vec<Vec<String>>> = vec![Vec::new(); self.specs.len()];
        let mut failed = None;
        let batch = self.settings.encode.batch.max(1);
        let kafka = self.settings.kafka.clone();
        read_range(&kafka, &range.partition, range.from..range.to, PATIENCE, |message| {
            if failed.is_some() {
                return;
            }
            if intake.take(&message, 0, &mut windows, &board) == Taken::Pending {
                // The batch that has grown is the record's model.
                let grown = intake.batches.iter().zip(&items).position(|(batch, items)| batch.rows.len() > items.len());
                let Some(model) = grown else { return };
                items[model].push(intake.record().items.clone());
                if items[model].len() >= batch {
                    failed = self.flush(&mut intake, &mut windows, &mut items, start_ms, each).err();
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.flush(&mut intake, &mut windows, &mut items, start_ms, each)?;
        // Closed by hand: what closed it live may lie behind its last record.
        windows.raise_watermark(i64::MAX / 2);
        Ok(windows.close_due(&self.specs, intake.table()).into_iter().find(|part| part.start_ms == start_ms))
    }

    fn flush(
        &mut self,
        intake: &mut Intake,
        windows: &mut PartitionWindows,
        items: &mut [Vec<Vec<String>>],
        start_ms: i64,
        each: &mut dyn FnMut(&SeenRow<'_>),
    ) -> Result<(), MonitorError> {
        let mut activations = SparseActivations::default();
        let mut reconstruction = Vec::new();
        let partition = windows.partition().clone();
        for (model, batch) in intake.batches.iter_mut().enumerate().filter(|(_, batch)| !batch.rows.is_empty()) {
            self.encoders[model].encode(&batch.embeddings, &mut activations)?;
            let bundle = Arc::clone(&self.models.bundles[model]);
            let (label, spec) = &self.specs[model];
            for (i, row) in batch.rows.iter().enumerate() {
                let (latents, values) = activations.row(i);
                let embedding = batch.embeddings.row(i);
                let fit = bundle.decoder().map(|decoder| fit(decoder.row_error(embedding, latents, values, &mut reconstruction)));
                let counted = CountedRow { entity: row.entity, segments: row.segments, embedding, latents, values, fit };
                windows.count(row.window_start_ms, row.offset, model, spec, &counted);
                if row.window_start_ms == start_ms {
                    each(&SeenRow {
                        partition: &partition,
                        offset: row.offset,
                        model_version: label,
                        entity: row.entity,
                        items: items[model].get(i).map_or(&[], Vec::as_slice),
                        segments: row.segments,
                        latents,
                        values,
                    });
                }
            }
            batch.embeddings.clear();
            batch.rows.clear();
            items[model].clear();
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
        Ok(Intake::new(decoder, rules, self.models.index.clone(), table, &self.models.widths()))
    }
}
