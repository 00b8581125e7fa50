//! Dose response: what steering by a concept does to recommendations, beside steering by nothing in
//! particular.
//!
//! The dose is chosen on one set of rows and its effect reported on another. Beside the concept stand
//! two controls that move every vector exactly as far: latents drawn among those that stand for no such
//! thing, and a random direction. A concept steers its tag where the interval of the tag's share lies
//! above the intervals of both.

use ndarray::Array2;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use serde::Serialize;

use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::sae::weights::SaeWeights;
use crate::workshop::evaluate::ranking::Case;
use crate::workshop::steer::apply::{Steerer, add_capped};
use crate::workshop::steer::bootstrap::{Interval, interval};
use crate::workshop::steer::lists::{ListReport, Lists, recommend, report, tag_shares};
use crate::workshop::steer::plan::{Action, Edit, Plan, Unit};
use crate::workshop::steer::strength::Strength;

/// Doses tried, in 99th percentiles of the latents' activation, until one costs too much: sixteen strong latents
/// together stand a twentieth, a weak one alone may need ten times what it ever showed.
pub const DOSES: [f32; 14] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4, 3.2, 4.8, 6.4, 9.6];
/// Sets of control latents; their shares are averaged row by row.
pub const CONTROLS: u64 = 5;

/// Rows with everything recommendations need.
#[derive(Debug)]
pub struct Scene {
    /// Vectors `[n, d]`.
    pub vectors: Array2<f32>,
    /// Their active latents.
    pub activations: SparseActivations,
    /// Targets and masks.
    pub cases: Vec<Case>,
    /// What is recommended without steering.
    pub before: Lists,
}

/// What does not change between doses.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The SAE.
    pub sae: &'a SaeWeights,
    /// Item vectors `[n_items, d]`.
    pub items: &'a Array2<f32>,
    /// Row of `items` that is no item.
    pub padding: Option<usize>,
    /// Places of a list.
    pub top: usize,
    /// Units of the latents.
    pub strength: &'a dyn Fn(LatentId) -> Strength,
    /// Largest change of a vector, over its length.
    pub cap: Option<f32>,
    /// Draws controls and resamples.
    pub seed: u64,
}

impl World<'_> {
    /// Latents that are active somewhere and not among `latents`: what controls are drawn from.
    #[must_use]
    pub fn others(&self, latents: &[LatentId]) -> Vec<LatentId> {
        let all = (0u32..).take(self.sae.spec().d_sae.get()).map(LatentId);
        all.filter(|latent| !latents.contains(latent) && (self.strength)(*latent).n > 0).collect()
    }
}

/// One dose on one set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Dose {
    /// In 99th percentiles.
    pub dose: f32,
    /// Mean `||x' - x|| / ||x||`.
    pub moved: f64,
    /// The lists.
    pub lists: ListReport,
    /// Share of the tag in the lists.
    pub share: Interval,
    /// The same for control latents.
    pub control_latents: Interval,
    /// The same for a random direction.
    pub random_direction: Interval,
}

impl Dose {
    /// Whether the tag moved beyond both controls.
    #[must_use]
    pub fn beyond_controls(&self) -> bool {
        self.share.low > self.control_latents.high && self.share.low > self.random_direction.high
    }
}

/// No dose: what the rows are recommended anyway.
#[must_use]
pub fn unsteered(world: World<'_>, scene: &Scene, has_tag: &[bool]) -> Dose {
    let share = interval(&tag_shares(&scene.before, has_tag), world.seed);
    let lists = report(&scene.before, &scene.before, world.items.nrows(), world.padding);
    Dose { dose: 0.0, moved: 0.0, lists, share, control_latents: share, random_direction: share }
}

/// Tries one dose of `latents` on the rows of `scene`. `others` are latents that controls are drawn from.
#[must_use]
pub fn try_dose(world: World<'_>, scene: &Scene, latents: &[LatentId], others: &[LatentId], has_tag: &[bool], dose: f32) -> Option<Dose> {
    let plan = add_plan(latents, dose, world.cap);
    let (steered, moved) = steer(world, scene, &plan)?;
    let lists = recommend(steered.view(), world.items, world.padding, &scene.cases, world.top);
    let shares = tag_shares(&lists, has_tag);
    let lengths = lengths(&steered, &scene.vectors);
    let mut rng = ChaCha8Rng::seed_from_u64(world.seed);
    let mut controls = vec![0.0; shares.len()];
    for _ in 0..CONTROLS {
        let drawn: Vec<LatentId> = others.choose_multiple(&mut rng, latents.len()).copied().collect();
        let direction = sum_of_rows(world, &drawn)?;
        let shares = tag_shares(&moved_by(world, scene, &lengths, &direction), has_tag);
        controls.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share / CONTROLS as f64);
    }
    let random = tag_shares(&moved_by(world, scene, &lengths, &random_direction(&mut rng, scene.vectors.ncols())), has_tag);
    Some(Dose {
        dose,
        moved,
        lists: report(&lists, &scene.before, world.items.nrows(), world.padding),
        share: interval(&shares, world.seed),
        control_latents: interval(&controls, world.seed),
        random_direction: interval(&random, world.seed),
    })
}

/// A plan that adds `dose` 99th percentiles to each latent.
#[must_use]
pub fn add_plan(latents: &[LatentId], dose: f32, cap: Option<f32>) -> Plan {
    let edit = Edit { concept: None, latents: latents.to_vec(), action: Action::Add(dose), unit: Unit::P99 };
    Plan { fingerprint: String::new(), edits: vec![edit], cap }
}

/// The steered vectors of a scene, and the mean of how far they moved.
#[must_use]
pub fn steer(world: World<'_>, scene: &Scene, plan: &Plan) -> Option<(Array2<f32>, f64)> {
    let mut steerer = Steerer::new(world.sae, plan, world.strength)?;
    let (mut vectors, mut moved) = (scene.vectors.clone(), 0.0);
    for (row, mut vector) in vectors.rows_mut().into_iter().enumerate() {
        let (latents, values) = scene.activations.row(row);
        moved += f64::from(steerer.apply(vector.as_slice_mut()?, latents, values));
    }
    let n = scene.vectors.nrows().max(1) as f64;
    Some((vectors, moved / n))
}

/// How far each row was moved.
#[must_use]
pub fn lengths(steered: &Array2<f32>, before: &Array2<f32>) -> Vec<f32> {
    let length = |(a, b): (ndarray::ArrayView1<'_, f32>, ndarray::ArrayView1<'_, f32>)| {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
    };
    steered.rows().into_iter().zip(before.rows()).map(length).collect()
}

/// Where adding as many 99th percentiles to each of `latents` moves a vector. `None` without a decoder.
#[must_use]
pub fn sum_of_rows(world: World<'_>, latents: &[LatentId]) -> Option<Vec<f32>> {
    let w_dec = world.sae.w_dec()?;
    let mut sum = vec![0.0; w_dec.ncols()];
    for latent in latents {
        let strength = (world.strength)(*latent).p99;
        sum.iter_mut().zip(w_dec.row(latent.index())).for_each(|(sum, w)| *sum += strength * w);
    }
    Some(sum)
}

/// A direction of no meaning.
#[must_use]
pub fn random_direction(rng: &mut ChaCha8Rng, d: usize) -> Vec<f32> {
    (0..d).map(|_| rng.sample(StandardNormal)).collect()
}

/// Lists after every row was moved by its length along a direction.
#[must_use]
pub fn moved_by(world: World<'_>, scene: &Scene, lengths: &[f32], direction: &[f32]) -> Lists {
    let mut vectors = scene.vectors.clone();
    let norm = direction.iter().map(|d| d * d).sum::<f32>().sqrt();
    for (mut vector, length) in vectors.rows_mut().into_iter().zip(lengths).filter(|(_, length)| **length > 0.0 && norm > 0.0) {
        let delta: Vec<f32> = direction.iter().map(|d| d * length / norm).collect();
        if let Some(vector) = vector.as_slice_mut() {
            add_capped(vector, &delta, None);
        }
    }
    recommend(vectors.view(), world.items, world.padding, &scene.cases, world.top)
}
