//! The rules of the native engine: the same bits with every kernel, and the f64 yardstick's values.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ndarray::{Array1, Array2};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;
use crate::encode::PlainEncoder;
use crate::encode::native::screen_row::TileRow;
use crate::sae::weights::{SaeSpec, SaeWeights, Selection};

/// A made-up SAE with rows of ordinary, large, tiny, equal and zero norm.
pub(super) fn weights(d_in: usize, d_sae: usize, selection: Selection, seed: u64) -> SaeWeights {
    let size = |n| NonZeroUsize::new(n).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let spec = SaeSpec { d_in: size(d_in), d_sae: size(d_sae), selection, centring: seed.is_multiple_of(2) };
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

/// Rows made to break the screen's bound: along what rounding the weights leaves over, where the second term of
/// the bound is an equality, and on the edges of the row's own steps, where the first one is largest.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
fn adversarial(model: &NativeModel, screen: &Screen, n_rows: usize, seed: u64) -> EmbeddingBatch {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut batch = EmbeddingBatch::new(model.spec().d_in);
    for _ in 0..n_rows {
        let latent = rng.random_range(0..model.spec().d_sae.get());
        let step = f64::from(screen.scales[latent]) / 32_768.0 * screen.largest_step;
        let sign = if rng.random() { 1.0 } else { -1.0 };
        let share = rng.random_range(0.0..1.0f64);
        let most = f64::from(model.row(latent).iter().fold(1e-3f32, |most, w| most.max(w.abs())));
        let row: Vec<f32> = (0..model.spec().d_in.get())
            .map(|i| {
                let w = f64::from(model.row(latent)[i]);
                let at = ((latent / screen::PANEL * screen.n_pairs + i / 2) * screen::PANEL + latent % screen::PANEL) * 2 + i % 2;
                let left = w - step * f64::from(screen.weights[at]);
                let edge = ((w / most * 63.0).round() + 0.499) * most / 63.0;
                let value = share * edge + (1.0 - share) * (w + left * 40.0);
                (f64::from(model.centre_vector()[i]) + sign * value) as f32
            })
            .collect();
        batch.push(&row).unwrap();
    }
    batch
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_kernel_screened_or_not_gives_the_same_bits(
        d_in in 1usize..200, d_sae in 1usize..1200, selection in selection(), seed in any::<u64>(),
    ) {
        let model = Arc::new(NativeModel::new(&weights(d_in, d_sae, selection, seed)));
        let screen = Screen::new(&model).unwrap();
        for rows in [stress_rows(&model, 70, seed), adversarial(&model, &screen, 31, seed)] {
            let mut portable = SparseActivations::default();
            NativeEncoder::in_full(Arc::clone(&model), Kernel::Portable).encode(&rows, &mut portable).unwrap();
            for kernel in Kernel::all() {
                for mut encoder in [NativeEncoder::in_full(Arc::clone(&model), kernel), NativeEncoder::new(Arc::clone(&model), kernel)] {
                    let mut out = SparseActivations::default();
                    encoder.encode(&rows, &mut out).unwrap();
                    prop_assert_eq!(&out, &portable, "{}", kernel.name());
                }
            }
        }
    }

    #[test]
    fn no_value_exceeds_its_bound(d_in in 1usize..200, d_sae in 1usize..600, seed in any::<u64>()) {
        let model = NativeModel::new(&weights(d_in, d_sae, Selection::Threshold(0.0), seed));
        let screen = Screen::new(&model).unwrap();
        let (mut tile, mut centred) = (Tile::default(), Vec::new());
        let rows = [stress_rows(&model, 5 * ROWS, seed), adversarial(&model, &screen, 5 * ROWS, seed)];
        rows.iter().flat_map(|rows| rows.values().chunks_exact(rows.d_in())).for_each(|row| model.centre(row, &mut centred));
        for block in centred.chunks_exact(ROWS * model.padded_in()) {
            block.chunks_exact(model.padded_in()).enumerate().for_each(|(at, y)| tile.set(&screen, at, y));
            let mut portable = vec![0; ROWS * model.padded_sae()];
            screen_kernel::estimates(Kernel::Portable, &screen, &tile, &mut portable);
            for kernel in Kernel::all() {
                let mut mid = vec![0; ROWS * model.padded_sae()];
                screen_kernel::estimates(kernel, &screen, &tile, &mut mid);
                prop_assert_eq!(&mid, &portable, "{}", kernel.name());
            }
            let mut dense = vec![0.0; ROWS * model.padded_sae()];
            product::dense(Kernel::best(), &model, block, &mut dense);
            for (row, (dense, up)) in dense.chunks_exact(model.padded_sae()).zip(portable.chunks_exact(model.padded_sae())).enumerate() {
                let TileRow { unit, margin, .. } = tile.rows[row];
                if unit > 0.0 {
                    for (latent, (value, mid)) in dense.iter().zip(up).enumerate() {
                        let margin = (i32::from(margin) * i32::from(screen.scales[latent]) + (1 << 14)) >> 15;
                        let (value, up) = (f64::from(*value) / unit, i32::from(*mid) + margin);
                        prop_assert!(value <= f64::from(up + screen.slack), "latent {latent}: {value} above {up}");
                        // And it is no more than two margins above: a bound that bounds nothing would hold too.
                        prop_assert!(value >= f64::from(up - 2 * margin - screen.slack), "latent {latent}: {value} far below {up}");
                    }
                }
            }
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
        product::dense(Kernel::Portable, &model, &centred, &mut dense);
        for kernel in Kernel::all() {
            for (x, dense) in centred.chunks_exact(model.padded_in()).zip(dense.chunks_exact(model.padded_sae())) {
                let mut values = Vec::new();
                product::some(kernel, &model, &latents, x, &mut values);
                let among: Vec<u32> = latents.iter().map(|latent| dense[*latent as usize].to_bits()).collect();
                prop_assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), among, "{}", kernel.name());
            }
        }
    }
}
