//! The rules of the native engine: the same bits with every kernel, and the f64 yardstick's values.

use std::num::NonZeroUsize;
use std::sync::Arc;

use ndarray::{Array1, Array2};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use super::*;
use crate::encode::PlainEncoder;
use crate::encode::native::screen_row::{Tile, TileRow};
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
    let weights = SaeWeights::new(spec, w_enc, b_enc, None, b_dec).unwrap();
    if seed.is_multiple_of(3) {
        return weights.with_thresholds(Array1::from_shape_simple_fn(d_sae, || rng.random_range(-0.5f32..2.0))).unwrap();
    }
    weights
}

pub(super) fn selection() -> impl Strategy<Value = Selection> {
    prop_oneof![
        3 => (1usize..80).prop_map(|k| Selection::TopK(NonZeroUsize::new(k).unwrap())),
        1 => (-0.5f32..4.0).prop_map(Selection::Threshold),
    ]
}

/// Both ways to round and add, whatever the CPU is fast with.
const FORMS: [Form; 2] = [Form::Pairs, Form::Quads];

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
        let (levels, group) = if screen.form == Form::Pairs { (63.0, 2) } else { (127.0, 4) };
        let row: Vec<f32> = (0..model.spec().d_in.get())
            .map(|i| {
                let w = f64::from(model.row(latent)[i]);
                let q = screen.weights[screen.place(latent, i / group) + i % group];
                let q = if screen.form == Form::Pairs { q } else { q ^ i8::MIN };
                let left = w - step * f64::from(q);
                let edge = ((w / most * levels).round() + 0.499) * most / levels;
                let value = share * edge + (1.0 - share) * (w + left * 40.0);
                (f64::from(model.centre_vector()[i]) + sign * value) as f32
            })
            .collect();
        batch.push(&row).unwrap();
    }
    batch
}

/// Whether every kernel gives the same estimates, and every value lies below its bound and not far below.
fn no_value_exceeds(model: &NativeModel, screen: &Screen, seed: u64) -> Result<(), TestCaseError> {
    let n_rows = screen.form.rows();
    let mut ys = vec![0.0; n_rows * model.padded_in()];
    let rows = [stress_rows(model, 60, seed), adversarial(model, screen, 60, seed)];
    for block in rows.iter().flat_map(|rows| rows.values().chunks_exact(n_rows * rows.d_in())) {
        let mut tile = Tile::default();
        screen_kernel::round((Kernel::Portable, model, screen), block, &mut ys, &mut tile);
        let mut portable = vec![0; n_rows * model.padded_sae()];
        screen_kernel::estimates(Kernel::Portable, screen, &tile, &mut portable);
        for kernel in Kernel::all() {
            let (mut rounded, mut centred) = (Tile::default(), vec![0.0; ys.len()]);
            screen_kernel::round((kernel, model, screen), block, &mut centred, &mut rounded);
            prop_assert_eq!((&rounded, &centred), (&tile, &ys), "{}, {:?}", kernel.name(), screen.form);
            let mut mid = vec![0; n_rows * model.padded_sae()];
            screen_kernel::estimates(kernel, screen, &tile, &mut mid);
            prop_assert_eq!(&mid, &portable, "{}, {:?}", kernel.name(), screen.form);
        }
        let mut dense = vec![0.0; n_rows * model.padded_sae()];
        product::dense(Kernel::best(), model, &ys, &mut dense);
        for (row, (dense, up)) in dense.chunks_exact(model.padded_sae()).zip(portable.chunks_exact(model.padded_sae())).enumerate() {
            let TileRow { unit, margin, .. } = tile.rows[row];
            if unit > 0.0 {
                for (latent, (value, mid)) in dense.iter().zip(up).enumerate() {
                    let margin = (i32::from(margin) * i32::from(screen.scales[latent]) + (1 << 14)) >> 15;
                    // The screen's bias is that of the latent less what its threshold lies above the floor.
                    let raised = f64::from(model.floor_of(latent)) - f64::from(model.floor());
                    let (value, up) = ((f64::from(*value) - raised) / unit, i32::from(*mid) + margin);
                    prop_assert!(value <= f64::from(up + screen.slack), "{:?}, latent {latent}: {value} above {up}", screen.form);
                    // And it is no more than two margins above: a bound that bounds nothing would hold too.
                    prop_assert!(value >= f64::from(up - 2 * margin - screen.slack), "latent {latent}: {value} far below {up}");
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_kernel_screened_or_not_gives_the_same_bits(
        d_in in 1usize..200, d_sae in 1usize..1200, selection in selection(), seed in any::<u64>(),
    ) {
        let model = Arc::new(NativeModel::new(&weights(d_in, d_sae, selection, seed)));
        // One latent alone may have no weight to screen by; what is screened then is computed in full.
        let screens = FORMS.map(|form| Screen::new(&model, form));
        let adversarial: Vec<_> = screens.iter().flatten().map(|screen| adversarial(&model, screen, 31, seed)).collect();
        for rows in adversarial.iter().chain([&stress_rows(&model, 70, seed)]) {
            let mut portable = SparseActivations::default();
            NativeEncoder::in_full(Arc::clone(&model), Kernel::Portable).encode(rows, &mut portable).unwrap();
            for kernel in Kernel::all() {
                let screened = FORMS.map(|form| NativeEncoder::screened(Arc::clone(&model), kernel, form));
                for mut encoder in screened.into_iter().chain([NativeEncoder::in_full(Arc::clone(&model), kernel)]) {
                    let mut out = SparseActivations::default();
                    encoder.encode(rows, &mut out).unwrap();
                    prop_assert_eq!(&out, &portable, "{}, {:?}", kernel.name(), encoder.screen.map(|screen| screen.form));
                }
            }
        }
    }

    #[test]
    fn every_kernel_bounds_and_collects_the_same_latents(
        d_sae in 1usize..1200, k in 1usize..512, margin in 0i16..300, bound in -500i16..500, seed in any::<u64>(),
    ) {
        // One latent alone may have no weight to screen by.
        let screen = Screen::new(&NativeModel::new(&weights(8, d_sae, Selection::Threshold(0.0), seed)), Form::Quads);
        prop_assume!(screen.is_some());
        let screen = screen.unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mid: Vec<i16> = (0..screen.d_sae).map(|_| rng.random_range(-600..600)).collect();
        let answer = |kernel| {
            let mut maxima = vec![0; if k <= 64 { 128 } else { 1024 }];
            screen_kernel::lane_maxima(kernel, &mid, &mut maxima);
            // Six times the same row: four are bisected together, two alone.
            let mut bounds = [0; 6];
            screen_kernel::bisect(kernel, &maxima.repeat(6), maxima.len(), k, &mut bounds);
            let mut latents = vec![0; screen.d_sae + 64];
            let n = screen_kernel::collect(kernel, &screen, &mid, margin, bound, &mut latents);
            latents.truncate(n);
            (maxima, bounds, latents)
        };
        let portable = answer(Kernel::Portable);
        for kernel in Kernel::all() {
            prop_assert_eq!(answer(kernel), portable.clone(), "{}", kernel.name());
        }
    }

    #[test]
    fn no_value_exceeds_its_bound(d_in in 1usize..200, d_sae in 1usize..600, seed in any::<u64>()) {
        let model = NativeModel::new(&weights(d_in, d_sae, Selection::Threshold(0.0), seed));
        let screens = FORMS.map(|form| Screen::new(&model, form));
        prop_assume!(screens.iter().all(Option::is_some));
        for screen in screens.iter().flatten() {
            no_value_exceeds(&model, screen, seed)?;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn both_selections_among_computed_latents_are_the_same(
        values in prop::collection::vec(prop_oneof![3 => -1.0f32..3.0, 2 => (-2i8..4).prop_map(f32::from)], 1..150),
        k in 1usize..90, floor in prop_oneof![Just(0.0f32), 0.0f32..2.0],
    ) {
        let latents: Vec<u32> = (7u32..).step_by(3).take(values.len()).collect();
        let mut expected = SparseActivations::default();
        let mut among = crate::sae::topk::Among::default();
        among.select(&latents, &values, k, floor);
        among.append_to(&mut expected);
        for kernel in Kernel::all() {
            let Kernel::Avx512(proof) = kernel else { continue };
            let n = values.len().next_multiple_of(select_avx512::WIDTH);
            let (mut padded, mut padded_latents) = (values.clone(), latents.clone());
            padded.resize(n, f32::NEG_INFINITY);
            padded_latents.resize(n, 0);
            let mut selected = select_avx512::Selected::default();
            if selected.select(proof, &padded_latents, &padded, k, floor) {
                prop_assert_eq!(selected.parts(), expected.row(0));
            } else {
                // It gives up at ties alone.
                let kth = expected.row(0).1.iter().fold(f32::INFINITY, |least, value| least.min(*value));
                prop_assert!(values.iter().filter(|value| (**value - kth).abs() <= 1e-6).count() > 1);
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
        let mut centred = vec![0.0; rows.n_rows() * model.padded_in()];
        model.centre(rows.values(), &mut centred);
        let mut dense = vec![0.0; rows.n_rows() * model.padded_sae()];
        product::dense(Kernel::Portable, &model, &centred, &mut dense);
        for kernel in Kernel::all() {
            for (x, dense) in centred.chunks_exact(model.padded_in()).zip(dense.chunks_exact(model.padded_sae())) {
                let mut values = vec![0.0; latents.len() + product::ROOM];
                product::some(kernel, &model, &latents, x, &mut values);
                values.truncate(latents.len());
                let among: Vec<u32> = latents.iter().map(|latent| dense[*latent as usize].to_bits()).collect();
                prop_assert_eq!(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), among, "{}", kernel.name());
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn all_kernels_of_this_cpu_are_tried() {
    // By the kernel's words, not by what the program found.
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags: Vec<&str> = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default().split_whitespace().collect();
    let has = |all: &[&str]| all.iter().all(|flag| flags.contains(flag));
    let avx2 = has(&["avx2", "fma", "bmi1", "popcnt"]);
    let avx512 = avx2 && has(&["avx512f", "avx512bw", "avx512dq", "avx512_vnni"]);
    let expected = [
        ("portable", true),
        ("avx2", avx2),
        ("avx-vnni", avx2 && (has(&["avx_vnni"]) || has(&["avx512vl", "avx512_vnni"]))),
        ("avx512", avx512 && has(&["avx512_vbmi2"])),
        (if has(&["avx512_vbmi2"]) { "avx512-vbmi2" } else { "avx512" }, avx512),
    ];
    let expected: Vec<&str> = expected.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
    let names: Vec<&str> = Kernel::all().into_iter().map(Kernel::name).collect();
    println!("{names:?}");
    assert_eq!(names, expected);
}
