//! Steps beside a dense twin in f64, on any number of threads and with any instructions, and what becomes of the dead.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// The same step written down densely in f64: every latent of every row, no sorting, no blocks.
struct Twin {
    w_enc: Vec<Vec<f64>>,
    b_enc: Vec<f64>,
    w_dec: Vec<Vec<f64>>,
    b_dec: Vec<f64>,
    second: [Vec<f64>; 4],
    fired_at: Vec<u64>,
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(values: &[f64], among: impl Fn(usize) -> bool, k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).filter(|j| values[*j] > 0.0 && among(*j)).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

impl Twin {
    fn of(state: &TrainingState, d: usize) -> Self {
        let matrix = |values: &[f32]| values.chunks(d).map(wide).collect::<Vec<_>>();
        let second = [&state.w_enc, &state.b_enc, &state.w_dec, &state.b_dec].map(|p| vec![0.0; p.weights.len()]);
        Self {
            w_enc: matrix(&state.w_enc.weights),
            b_enc: wide(&state.b_enc.weights),
            w_dec: matrix(&state.w_dec.weights),
            b_dec: wide(&state.b_dec.weights),
            second,
            fired_at: vec![0; state.fired_at.len()],
        }
    }

    /// `selected`: a row's active latents, which are the largest within `rounding`.
    fn step(
        &mut self,
        recipe: &Recipe,
        rows: &[&[f32]],
        variance: f64,
        (step, n_steps): (u64, u64),
        selected: &[Vec<usize>],
        rounding: f64,
    ) {
        let (d, m, b) = (self.b_dec.len(), recipe.d_sae, rows.len() as f64);
        let seen = step * rows.len() as u64;
        let dead: Vec<bool> = self.fired_at.iter().map(|at| seen - at >= recipe.dead_after).collect();
        let share = (dead.iter().filter(|dead| **dead).count() as f64 / recipe.k_aux as f64).min(1.0);
        let mut g: [Vec<f64>; 4] = [vec![0.0; m * d], vec![0.0; m], vec![0.0; m * d], vec![0.0; d]];
        for (i, row) in rows.iter().enumerate() {
            let x: Vec<f64> = wide(row).iter().zip(&self.b_dec).map(|(x, c)| x - c).collect();
            let pre: Vec<f64> = (0..m).map(|j| product(&self.w_enc[j], &x) + self.b_enc[j]).collect();
            let active = selected[i].clone();
            let worth = |latents: &[usize]| {
                let mut values: Vec<f64> = latents.iter().map(|j| pre[*j]).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            let (found, expected) = (worth(&active), worth(&largest(&pre, |_| true, recipe.k)));
            let near = found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() <= rounding);
            assert!(found.len() == expected.len() && near, "row {i}: {found:?}, the largest are {expected:?}");
            let decode = |latents: &[usize]| -> Vec<f64> {
                (0..d).map(|c| latents.iter().map(|j| pre[*j] * self.w_dec[*j][c]).sum::<f64>()).collect()
            };
            let e: Vec<f64> = x.iter().zip(decode(&active)).map(|(x, hat)| x - hat).collect();
            let main: Vec<f64> = e.iter().map(|e| -2.0 * e / (b * variance)).collect();
            (0..d).for_each(|c| g[3][c] += main[c]);
            let mut parts = vec![(active.clone(), main)];
            // Rows of a chunk are counted from its start, which is where the auxiliary loss counts from.
            if share > 0.0 && (i % CHUNK_ROWS).is_multiple_of(recipe.aux_every) {
                let asleep = largest(&pre, |j| dead[j], recipe.k_aux);
                let factor = 2.0 / (b * variance) * f64::from(recipe.aux_weight) * share * recipe.aux_every as f64;
                let aux = decode(&asleep).iter().zip(&e).map(|(hat, e)| factor * (hat - e)).collect();
                parts.push((asleep, aux));
            }
            for (latents, gradient) in parts {
                for j in latents {
                    let slope = product(&gradient, &self.w_dec[j]);
                    g[1][j] += slope;
                    for c in 0..d {
                        g[2][j * d + c] += pre[j] * gradient[c];
                        g[0][j * d + c] += slope * x[c];
                        g[3][c] -= slope * self.w_enc[j][c];
                    }
                }
            }
            active.iter().for_each(|j| self.fired_at[*j] = seen + rows.len() as u64);
        }
        for j in 0..m {
            let along = product(&g[2][j * d..(j + 1) * d], &self.w_dec[j]);
            (0..d).for_each(|c| g[2][j * d + c] -= along * self.w_dec[j][c]);
        }
        let rate = f64::from(recipe.learning_rate_at(step, n_steps));
        let beta2 = f64::from(recipe.beta2);
        let correction = 1.0 - beta2.powf((step + 1) as f64);
        let mut update = |tensor: usize, at: usize, w: &mut f64| {
            let v = &mut self.second[tensor][at];
            *v = beta2 * *v + (1.0 - beta2) * g[tensor][at].powi(2);
            *w -= rate * g[tensor][at] / (*v / correction + 1e-16).sqrt();
        };
        for j in 0..m {
            (0..d).for_each(|c| update(0, j * d + c, &mut self.w_enc[j][c]));
            update(1, j, &mut self.b_enc[j]);
            (0..d).for_each(|c| update(2, j * d + c, &mut self.w_dec[j][c]));
            let norm = product(&self.w_dec[j], &self.w_dec[j]).sqrt();
            self.w_dec[j].iter_mut().for_each(|w| *w /= norm);
        }
        (0..d).for_each(|c| update(3, c, &mut self.b_dec[c]));
    }
}

fn random_rows(rng: &mut ChaCha8Rng, n: usize, d: usize) -> Vec<Vec<f32>> {
    (0..n).map(|_| (0..d).map(|_| rng.random_range(-1.0f32..1.0)).collect()).collect()
}

#[test]
fn a_step_equals_its_dense_twin_in_f64_with_dead_latents_and_without() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // 70 values: a block of 64 and a rest. 150 rows: a chunk and a rest.
    let (d, n) = (70, 150);
    // Few latents, all of them computed, and as many as are screened.
    for (m, dead_after) in [(90, 1), (90, u64::MAX), (300, 1)] {
        let recipe =
            Recipe { batch: n, k_aux: 6, aux_every: 2, warm_up: 0.0, learning_rate: 1e-4, dead_after, ..Recipe::new(d, m, 4, seed) };
        let rows = random_rows(&mut rng, n, d);
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let state = TrainingState::new(&recipe, &vec![0.1; d]);
        let mut twin = Twin::of(&state, d);
        let mut trainer = Trainer::new(recipe.clone(), state, 20.0, 1);
        for step in 0..3 {
            trainer.step(&rows, 10);
            let rows_of = |chunk: &RowChunk| -> Vec<Vec<usize>> {
                let active = chunk.active();
                (0..active.n_rows()).map(|row| active.row(row).0.iter().map(|latent| latent.index()).collect()).collect()
            };
            let selected: Vec<Vec<usize>> = trainer.chunks.iter().flat_map(rows_of).collect();
            // Estimates of a unit weight and a row of norm 5 in 8 bits; all values are computed where latents are few.
            let rounding = if m < 256 { 1e-5 } else { 0.1 };
            twin.step(&recipe, &rows, 20.0, (step, 10), &selected, rounding);
        }
        let close = |name: &str, got: &[f32], expected: &[f64]| {
            let worst = got.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            // A gradient of nearly zero has a sign by rounding alone, and Adam steps by the sign: 3 steps of 1e-4.
            let n_off = got.iter().zip(expected).filter(|(a, b)| (f64::from(**a) - **b).abs() > 2e-6).count();
            assert!(worst < 1e-3 && n_off * 100 <= got.len(), "{name}: {worst}, {n_off} of {}", got.len());
        };
        close("w_enc", &trainer.state().w_enc.weights, &twin.w_enc.concat());
        close("b_enc", &trainer.state().b_enc.weights, &twin.b_enc);
        close("w_dec", &trainer.state().w_dec.weights, &twin.w_dec.concat());
        close("b_dec", &trainer.state().b_dec.weights, &twin.b_dec);
        assert_eq!(trainer.state().fired_at, twin.fired_at);
    }
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let (d, m) = (24, 200);
    let recipe = Recipe { dead_after: 300, batch: 200, ..Recipe::new(d, m, 5, seed) };
    let run = |threads: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut trainer = Trainer::new(recipe.clone(), TrainingState::new(&recipe, &vec![0.0; d]), 8.0, threads);
        for _ in 0..20 {
            let rows = random_rows(&mut rng, 200, d);
            trainer.step(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), 20);
        }
        trainer.state().clone()
    };
    let one = run(1);
    assert!(one == run(2) && one == run(4) && one == run(7));
    for row in one.w_dec.weights.chunks(d) {
        let norm: f32 = row.iter().map(|w| w * w).sum();
        assert!((norm - 1.0).abs() < 1e-5, "decoder rows stay unit");
    }
}

#[test]
fn every_kernel_and_width_gives_the_same_bits() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    // Screened and in full; a width that fills registers and one that does not.
    for (d, m) in [(64, 320), (37, 100)] {
        let recipe = Recipe { dead_after: 300, batch: 150, ..Recipe::new(d, m, 5, seed) };
        let run = |how: (Kernel, Wide)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut trainer = Trainer::with_kernel(recipe.clone(), TrainingState::new(&recipe, &vec![0.0; d]), 8.0, 1, how);
            for _ in 0..6 {
                let rows = random_rows(&mut rng, 150, d);
                trainer.step(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), 6);
            }
            trainer.state().clone()
        };
        let plain = run((Kernel::Portable, Wide::portable()));
        for kernel in Kernel::all() {
            for wide in Wide::all() {
                assert!(run((kernel, wide)) == plain, "{} {wide:?} of {d} x {m}", kernel.name());
            }
        }
    }
}

#[test]
fn dead_latents_come_back_by_the_auxiliary_loss_and_not_without() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let (d, m, dead_after) = (16, 64, 2_000);
    let n_dead = |aux_weight: f32| {
        let recipe = Recipe { batch: 100, dead_after, aux_weight, k_aux: 8, learning_rate: 3e-3, ..Recipe::new(d, m, 4, seed) };
        let mut state = TrainingState::new(&recipe, &vec![0.0; d]);
        // Half of the latents lie a little too low to be among a row's four.
        state.b_enc.weights[m / 2..].fill(-0.3);
        state.w_enc.weights[m / 2 * d..].iter_mut().for_each(|w| *w *= 0.3);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut trainer = Trainer::new(recipe, state, d as f64 / 3.0, 1);
        let mut most = 0;
        for _ in 0..400 {
            let rows = random_rows(&mut rng, 100, d);
            most = most.max(trainer.step(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), 400).n_dead);
        }
        (most, trainer.step(&[&[0.5; 16]], 400).n_dead)
    };
    let ((most, left), (most_without, left_without)) = (n_dead(1.0 / 32.0), n_dead(0.0));
    println!("dead: {left} of {most} with, {left_without} of {most_without} without");
    assert!(most >= m / 4 && most_without >= m / 4, "they were dead");
    assert!(4 * left <= most && 2 * left_without >= most_without);
}
