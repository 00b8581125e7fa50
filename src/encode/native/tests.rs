//! The rules of the native engine: the same bits with every kernel, and the f64 yardstick's values.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ndarray::{Array1, Array2};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;
use crate::encode::PlainEncoder;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// A made-up SAE with rows of ordinary, large, tiny, equal and zero norm.
pub(super) fn weights(d_in: usize, d_sae: usize, selection: Selection, seed: u64) -> SaeWeights {
    let size = |n| NonZeroUsize::new(n).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let spec = SaeSpec { d_in: size(d_in), d_sae: size(d_sae), selection, centring: seed % 2 == 0 };
    let mut w_enc = Array2::from_shape_simple_fn((d_sae, d_in), || rng.random_range(-1.0f32..1.0));
    for j in 0..d_sae {
        match rng.random_range(0..12) {
            0 => w_enc.row_mut(j).fill(0.0),
            1 => w_enc.row_mut(j).mapv_inplace(|w| w * 30.0),
            2 => w_enc.row_mut(j).mapv_inplace(|w| w * 1e-3),
            3 if j > 0 => w_enc.row(j - 1).to_owned().assign_to(w_enc.row_mut(j)),
            4 if j > 0 => (&w_enc.row(j - 1) * 1.000_001).assign_to(w_enc.row_mut(j)),
            _ => {}
        }
    }
    let b_enc = Array1::from_shape_simple_fn(d_sae, || rng.random_range(-0.3f32..0.3));
    let b_dec = Array1::from_shape_simple_fn(d_in, || rng.random_range(-1.0f32..1.0));
    SaeWeights::new(spec, w_enc, b_enc, None, b_dec).unwrap()
}

pub(super) fn selection() -> impl Strategy<Value = Selection> {
    prop_oneof![
        3 => (1usize..80).prop_map(|k| Selection::TopK(NonZeroUsize::new(k).unwrap())),
        1 => (-0.5f32..4.0).prop_map(Selection::Threshold),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn every_kernel_gives_the_same_bits(d_in in 1usize..150, d_sae in 1usize..1500, selection in selection(), seed in any::<u64>()) {
        let model = Arc::new(NativeModel::new(&weights(d_in, d_sae, selection, seed)));
        let rows = stress_rows(&model, 70, seed);
        let encoded = |kernel| {
            let (mut encoder, mut out) = (NativeEncoder::new(Arc::clone(&model), kernel), SparseActivations::default());
            encoder.encode(&rows, &mut out).unwrap();
            out
        };
        let portable = encoded(Kernel::Portable);
        for kernel in Kernel::all() {
            prop_assert_eq!(&encoded(kernel), &portable, "{}", kernel.name());
        }
    }

    #[test]
    fn the_engine_agrees_with_the_f64_yardstick(d_in in 1usize..150, d_sae in 1usize..700, selection in selection(), seed in any::<u64>()) {
        let weights = weights(d_in, d_sae, selection, seed);
        let model = Arc::new(NativeModel::new(&weights));
        let rows = stress_rows(&model, 60, seed);
        let (mut found, mut expected) = (SparseActivations::default(), SparseActivations::default());
        NativeEncoder::new(Arc::clone(&model), Kernel::best()).encode(&rows, &mut found).unwrap();
        PlainEncoder::new(weights).encode(&rows, &mut expected).unwrap();
        let agreement = compare(&model, &rows, &found, &expected);
        prop_assert_eq!(agreement.first_mismatch, None);
    }

    #[test]
    fn some_latents_have_the_bits_they_have_among_all(d_in in 1usize..150, seed in any::<u64>(), latents in prop::collection::vec(0u32..90, 1..40)) {
        let model = NativeModel::new(&weights(d_in, 90, Selection::Threshold(0.0), seed));
        let rows = stress_rows(&model, 10, seed);
        let mut centred = Vec::new();
        (0..rows.n_rows()).for_each(|row| model.centre(rows.row(row), &mut centred));
        let mut dense = vec![0.0; rows.n_rows() * model.padded_sae()];
        dot::dense(Kernel::Portable, &model, &centred, &mut dense);
        for kernel in Kernel::all() {
            for (x, dense) in centred.chunks_exact(model.padded_in()).zip(dense.chunks_exact(model.padded_sae())) {
                let mut values = Vec::new();
                dot::some(kernel, &model, &latents, x, &mut values);
                let among: Vec<u32> = latents.iter().map(|latent| dense[*latent as usize].to_bits()).collect();
                prop_assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), among, "{}", kernel.name());
            }
        }
    }
}
