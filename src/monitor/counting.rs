//! A batch of pending rows becomes counts: encode, select, measure the fit, add to the windows.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::drift::window::{CountedRow, CountingSpec, Fit};
use crate::encode::{EncodeError, Encoder};
use crate::fault;
use crate::metrics::cpu::Stopwatch;
use crate::metrics::registry::{ProcessMetrics, Stage};
use crate::monitor::intake::ModelBatch;
use crate::monitor::tracked::Tracked;
use crate::sae::activation::SparseActivations;
use crate::sae::reconstruction::RowError;

/// One worker's encoders with their scratch memory.
pub struct Counting {
    encoders: Vec<Box<dyn Encoder>>,
    bundles: Vec<Arc<Bundle>>,
    activations: SparseActivations,
    reconstruction: Vec<f32>,
}

impl Counting {
    /// Encoders and the bundles they were opened from, by model.
    #[must_use]
    pub fn new(encoders: Vec<Box<dyn Encoder>>, bundles: Vec<Arc<Bundle>>) -> Self {
        Self { encoders, bundles, activations: SparseActivations::default(), reconstruction: Vec::new() }
    }

    /// Encodes and counts what waits, and empties the batches.
    ///
    /// # Errors
    /// An engine failed: a fault of the model, never of a record.
    pub fn flush(
        &mut self,
        batches: &mut [ModelBatch],
        models: &[(String, CountingSpec)],
        partitions: &mut [Tracked],
        (metrics, cpu): (&ProcessMetrics, &mut Stopwatch),
    ) -> Result<(), EncodeError> {
        for (model, batch) in batches.iter_mut().enumerate().filter(|(_, batch)| !batch.rows.is_empty()) {
            self.encoders[model].encode(&batch.embeddings, &mut self.activations)?;
            fault::point("encode");
            metrics.spent(Stage::Encode, cpu.lap());
            metrics.encode_mismatches.inc_by(self.encoders[model].take_mismatches());
            let decoder = self.bundles[model].decoder();
            let spec = &models[model].1;
            for (i, row) in batch.rows.iter().enumerate() {
                let (latents, values) = self.activations.row(i);
                let embedding = batch.embeddings.row(i);
                let fit = decoder.map(|decoder| fit(decoder.row_error(embedding, latents, values, &mut self.reconstruction)));
                let counted = CountedRow { entity: row.entity, segments: row.segments, embedding, latents, values, fit };
                let windows = &mut partitions[row.partition].windows;
                windows.count(row.window_start_ms, row.offset, model, spec, &counted);
                if fault::planted("mutant-counted-twice") {
                    windows.count(row.window_start_ms, row.offset, model, spec, &counted);
                }
            }
            fault::point("count");
            batch.embeddings.clear();
            batch.rows.clear();
            metrics.spent(Stage::Count, cpu.lap());
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sums over rows are f64; a row's own error needs no more than f32")]
pub(super) fn fit(error: RowError) -> Fit {
    Fit {
        squared_error: error.squared_error as f32,
        cosine: error.cosine as f32,
        norm_ratio: error.norm_ratio as f32,
        squared_norm: error.squared_norm as f32,
    }
}
