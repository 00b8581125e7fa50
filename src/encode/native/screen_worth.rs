//! Whether a screen pays: told by what it leaves to be computed, not by a clock, so that a run decides as the last one did.
//!
//! A screen that leaves nothing costs some 0.4 of evaluating every latent. What it leaves is computed row by row: a latent costs
//! twice then what it costs among all, and ten times where its weights are read from memory for it. So a screen pays while
//! what it leaves costs less than half of all. Where it does not, on AVX2 at 768 x 16,384 with k = 64, its numbers of 7 bits
//! leave 1 latent in 18, those of AVX-512 VNNI 1 in 45 (`make bench-encode` prints both). It depends on k and on the rows as
//! much as on the shape, so no shape is left out beforehand.

use crate::encode::native::model::NativeModel;
use crate::encode::native::screen_select::Statistics;

/// Screened rows between two looks.
const LOOK: u64 = 4096;
/// Rows until it is tried again: what was seen may have been a burst of something odd.
const REST: u64 = 32 * LOOK;
/// Weights of more bytes are not all found in a cache.
const CACHED: usize = 16 << 20;

/// What was seen when it was last looked at, and for how many rows it is left out.
#[derive(Debug, Default)]
pub(super) struct Worth {
    seen: Statistics,
    rest: u64,
}

impl Worth {
    /// Judges by what comes after these.
    pub(super) fn starting_at(seen: Statistics) -> Self {
        Self { seen, rest: 0 }
    }

    /// Whether the next rows are screened.
    pub(super) fn pays(&self) -> bool {
        self.rest == 0
    }

    /// So many rows were encoded.
    pub(super) fn look(&mut self, n_rows: u64, statistics: Statistics, model: &NativeModel) {
        self.rest = self.rest.saturating_sub(n_rows);
        let n_screened = statistics.n_rows - self.seen.n_rows;
        if n_screened < LOOK {
            return;
        }
        let n_computed = statistics.n_computed - self.seen.n_computed;
        let n_in_full = statistics.n_in_full - self.seen.n_in_full;
        self.seen = statistics;
        let (d_in, d_sae) = (model.padded_in(), model.padded_sae());
        let n_alone = n_computed + n_in_full * d_sae as u64;
        if !is_worth(n_screened * d_sae as u64, n_alone, d_in * d_sae * size_of::<f32>()) {
            self.rest = REST;
        }
    }
}

/// Of `n_all` values `n_alone` were computed row by row, with weights of so many bytes.
fn is_worth(n_all: u64, n_alone: u64, bytes: usize) -> bool {
    let cost = if bytes > CACHED { 10 } else { 2 };
    2 * cost * n_alone < n_all
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use super::*;
    use crate::encode::Encoder;
    use crate::encode::native::screen_form::Form;
    use crate::encode::native::tests::weights;
    use crate::encode::native::{Kernel, NativeEncoder};
    use crate::sae::activation::SparseActivations;
    use crate::sae::embedding::EmbeddingBatch;
    use crate::sae::weights::Selection;

    #[test]
    fn it_is_left_out_where_it_leaves_too_much_and_tried_again() {
        let size = |n| NonZeroUsize::new(n).unwrap();
        let model = Arc::new(NativeModel::new(&weights(5, 640, Selection::TopK(size(3)), 4)));
        let row = |i: u64| std::array::from_fn::<f32, 5, _>(|at| ((i * 5 + at as u64) % 997) as f32 / 500.0 - 1.0);
        // Of a row that is too large for the bound every value is computed.
        let batch = |scale: f32| {
            let mut batch = EmbeddingBatch::new(size(5));
            (0..LOOK).for_each(|i| batch.push(&row(i).map(|value| value * scale)).unwrap());
            batch
        };
        let (good, bad) = (batch(1.0), batch(1e16));
        for (kernel, form) in Kernel::all().into_iter().flat_map(|kernel| [(kernel, Form::Pairs), (kernel, Form::Quads)]) {
            let mut encoder = NativeEncoder::screened(Arc::clone(&model), kernel, form);
            let mut full = NativeEncoder::in_full(Arc::clone(&model), kernel);
            let mut encode = |encoder: &mut NativeEncoder, batch: &EmbeddingBatch| {
                let (mut found, mut expected) = (SparseActivations::default(), SparseActivations::default());
                encoder.encode(batch, &mut found).unwrap();
                full.encode(batch, &mut expected).unwrap();
                assert!(found == expected, "{}, {form:?}", kernel.name());
                encoder.is_screened()
            };
            assert!(encode(&mut encoder, &good), "{}, {form:?}: {:?}", kernel.name(), encoder.statistics());
            assert!(!encode(&mut encoder, &bad), "{}, {form:?}: {:?}", kernel.name(), encoder.statistics());
            if kernel != Kernel::best() {
                continue;
            }
            let n_screened = encoder.statistics().n_rows;
            assert!((1..REST / LOOK).all(|_| !encode(&mut encoder, &good)), "it rests");
            assert_eq!(encoder.statistics().n_rows, n_screened);
            assert!(encode(&mut encoder, &good) && encode(&mut encoder, &good), "it is tried again, and pays");
            assert_eq!(encoder.statistics().n_rows, n_screened + LOOK);
            encoder.encode(&bad, &mut SparseActivations::default()).unwrap();
            encoder.judge_anew();
            assert!(encoder.is_screened());
        }
    }

    #[test]
    fn it_pays_where_it_was_measured_to_pay() {
        // Width, latents, and what is computed of a row: Gaussian rows on AVX2, but for the last. The first two shapes took as long
        // as without a screen or longer.
        let pays = |d_in: u64, d_sae: u64, computed: u64| is_worth(d_sae, computed, usize::try_from(4 * d_in * d_sae).unwrap());
        assert!(!pays(768, 16_384, 888) && !pays(768, 8_192, 780));
        assert!(pays(768, 16_384, 468) && pays(768, 4_096, 300) && pays(512, 16_384, 562) && pays(64, 2_048, 102));
        assert!(pays(768, 16_384, 363), "AVX-512 VNNI");
    }
}
