//! The native engine under ONNX Runtime's eyes: one batch in so many is encoded by both and compared.
//!
//! What they differ in by more than rounding explains stops the native engine for good: that batch and
//! all later ones are ONNX Runtime's, the fault is logged and counted, and the counter has an alert.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::encode::native::{Kernel, NativeEncoder, NativeModel, compare};
use crate::encode::{EncodeError, Encoder};
use crate::fault;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;

/// An encoder and the one that judges it.
pub(super) struct CheckedEncoder {
    native: Box<dyn Encoder>,
    model: Arc<NativeModel>,
    judge: Box<dyn Encoder>,
    every: NonZeroU32,
    /// Batches until the next comparison; the first is compared.
    until_next: u32,
    expected: SparseActivations,
    n_mismatches: u64,
    stopped: bool,
}

impl CheckedEncoder {
    /// The native engine with a judge that looks at one batch in `every`.
    pub(super) fn new(native: NativeEncoder, model: Arc<NativeModel>, judge: Box<dyn Encoder>, every: NonZeroU32) -> Self {
        Self {
            native: Box::new(native),
            model,
            judge,
            every,
            until_next: 0,
            expected: SparseActivations::default(),
            n_mismatches: 0,
            stopped: false,
        }
    }
}

impl Encoder for CheckedEncoder {
    fn engine(&self) -> &'static str {
        if self.stopped { self.judge.engine() } else { self.native.engine() }
    }

    fn d_in(&self) -> usize {
        self.judge.d_in()
    }

    fn d_sae(&self) -> usize {
        self.judge.d_sae()
    }

    fn encode(&mut self, batch: &EmbeddingBatch, activations: &mut SparseActivations) -> Result<(), EncodeError> {
        if self.stopped {
            return self.judge.encode(batch, activations);
        }
        if fault::planted("mutant-native-weights") {
            self.native = Box::new(NativeEncoder::new(Arc::new(self.model.with_signs_turned()), Kernel::best()));
        }
        self.native.encode(batch, activations)?;
        if self.until_next > 0 {
            self.until_next -= 1;
            return Ok(());
        }
        self.until_next = self.every.get() - 1;
        self.judge.encode(batch, &mut self.expected)?;
        let agreement = compare(&self.model, batch, activations, &self.expected);
        if agreement.n_near_ties > 0 {
            tracing::debug!(near_ties = agreement.n_near_ties, rows = agreement.n_rows, "two engines differ by near ties");
        }
        if let Some(why) = agreement.first_mismatch {
            tracing::error!(rows = agreement.n_mismatches, %why, "the native engine is wrong and is stopped: ONNX Runtime encodes from here on");
            self.n_mismatches += agreement.n_mismatches as u64;
            self.stopped = true;
            std::mem::swap(activations, &mut self.expected);
        }
        Ok(())
    }

    fn take_mismatches(&mut self) -> u64 {
        std::mem::take(&mut self.n_mismatches)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use ndarray::{Array1, Array2};

    use super::*;
    use crate::encode::PlainEncoder;
    use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

    fn weights(bias: f32) -> SaeWeights {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let spec = SaeSpec { d_in: size(4), d_sae: size(6), selection: Selection::TopK(size(2)), centring: false };
        let w_enc = Array2::from_shape_fn((6, 4), |(j, i)| f32::from(u8::try_from((j * 7 + i * 3) % 5).unwrap()) - 2.0);
        SaeWeights::new(spec, w_enc, Array1::from_elem(6, bias), None, Array1::zeros(4)).unwrap()
    }

    fn checked(judge_bias: f32, every: u32) -> CheckedEncoder {
        let model = Arc::new(NativeModel::new(&weights(0.0)));
        let native = NativeEncoder::new(Arc::clone(&model), Kernel::best());
        CheckedEncoder::new(native, model, Box::new(PlainEncoder::new(weights(judge_bias))), every.try_into().unwrap())
    }

    fn batch() -> EmbeddingBatch {
        let mut batch = EmbeddingBatch::new(NonZeroUsize::new(4).unwrap());
        batch.push(&[1.0, -2.0, 0.5, 3.0]).unwrap();
        batch
    }

    #[test]
    fn a_native_engine_that_differs_is_stopped_counted_and_replaced_by_its_judge() {
        let (mut encoder, mut out) = (checked(0.5, 3), SparseActivations::default());
        assert_eq!(encoder.engine(), "native");
        encoder.encode(&batch(), &mut out).unwrap();
        assert_eq!((encoder.engine(), encoder.take_mismatches(), encoder.take_mismatches()), ("plain", 1, 0));
        let mut expected = SparseActivations::default();
        PlainEncoder::new(weights(0.5)).encode(&batch(), &mut expected).unwrap();
        assert_eq!(out, expected, "the batch that showed it is the judge's");
        encoder.encode(&batch(), &mut out).unwrap();
        assert_eq!(out, expected);
    }

    #[test]
    fn weights_that_go_wrong_in_memory_are_found_at_the_next_comparison() {
        let (mut encoder, mut out) = (checked(0.0, 2), SparseActivations::default());
        encoder.encode(&batch(), &mut out).unwrap();
        let expected = out.clone();
        encoder.native = Box::new(NativeEncoder::new(Arc::new(encoder.model.with_signs_turned()), Kernel::best()));
        encoder.encode(&batch(), &mut out).unwrap();
        assert!(out != expected && encoder.engine() == "native", "between two comparisons nobody sees it");
        encoder.encode(&batch(), &mut out).unwrap();
        assert_eq!((&out, encoder.engine(), encoder.take_mismatches()), (&expected, "plain", 1));
    }

    #[test]
    fn one_batch_in_so_many_is_compared() {
        let (mut encoder, mut out) = (checked(0.0, 3), SparseActivations::default());
        for _ in 0..7 {
            encoder.encode(&batch(), &mut out).unwrap();
            encoder.expected.clear();
        }
        // The eighth and ninth are not looked at, the tenth (1, 4, 7, 10) is.
        for compared in [false, false, true] {
            encoder.encode(&batch(), &mut out).unwrap();
            assert_eq!(encoder.expected.n_rows() > 0, compared);
        }
        assert_eq!((encoder.engine(), encoder.take_mismatches()), ("native", 0));
    }
}
