//! Popularity taken back: latents that pull lists to what is popular are turned down, or those that pull the
//! other way are added.
//!
//! Cohen's d, by which popularity latents are named elsewhere, says in whose vectors a latent is active, not what it
//! does to a list: ablating by it raised no coverage. So latents are ranked by their pull on the items'
//! log popularity, times the mean of their activation where they are to lose it. How many, and how far, is
//! chosen on one set of rows by coverage, and reported on another beside controls that move every vector as far.

use anyhow::Context;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::sae::activation::SparseActivations;
use crate::sae::latent::LatentId;
use crate::workshop::steer::dose::{CONTROLS, DOSES, Scene, lengths, moved_by, random_direction, steer, sum_of_rows};
use crate::workshop::steer::lists::{ListReport, Lists, recommend, report};
use crate::workshop::steer::plan::{Action, Edit, Plan, Unit};
use crate::workshop::steer::request::{SteerRequest, counts};
use crate::workshop::steer::tag_response::NO_DECODER;

/// Factors a turned down activation is multiplied by, mildest first: 0 is ablated apart.
const FACTORS: [f32; 2] = [0.5, 0.25];

/// One recipe with its chosen amounts.
#[derive(Clone, Debug, Serialize)]
pub struct PopularityResponse {
    /// `ablate`, `turn down` or `add`.
    pub recipe: &'static str,
    /// What was chosen, on the rows of the choice; absent where nothing raised coverage there at its cost in NDCG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<Edit>,
    /// Mean of its latents' Cohen's d between rows that are recommended what is popular, and the others.
    pub cohens_d: f64,
    /// What it did to the rows of the choice.
    pub choice: ListReport,
    /// Mean `||x' - x|| / ||x||` on the rows of the report.
    pub moved: f64,
    /// What it did to the rows of the report.
    pub lists: ListReport,
    /// Coverage of the control latents there, lowest and highest draw.
    pub control_latents: (f64, f64),
    /// Coverage along random directions, lowest and highest draw.
    pub random_directions: (f64, f64),
    /// Whether coverage is above that of the unsteered and of every control.
    pub raised: bool,
}

/// The recipes, on the rows of the report.
#[derive(Clone, Debug, Serialize)]
pub struct PopularityReport {
    /// Without steering.
    pub before: ListReport,
    /// Each recipe.
    pub recipes: Vec<PopularityResponse>,
}

/// Chooses and reports every recipe.
///
/// # Errors
/// The SAE has no decoder.
pub fn popularity_report(request: &SteerRequest<'_>, popularity: &[f64]) -> anyhow::Result<PopularityReport> {
    let (world, choose) = (request.world, request.choose);
    let w_dec = world.sae.w_dec().context(NO_DECODER)?;
    let logs: Vec<f64> = popularity.iter().map(|n| n.max(0.0).ln_1p()).collect();
    let pulls = request.soft.pulls(&logs, world.items, w_dec);
    let means = mean_activations(&choose.activations, pulls.len());
    let leaning = cohens_d(&led_to_the_popular(&choose.before, &logs), &choose.activations, pulls.len());
    let popular = ranked(pulls.iter().zip(&means).map(|(pull, mean)| pull * mean));
    let niche = ranked(pulls.iter().zip(&means).map(|(pull, mean)| if *mean > 0.0 { -pull } else { 0.0 }));
    let recipes = [
        ("ablate", &popular, vec![(Action::Ablate, Unit::Absolute)]),
        ("turn down", &popular, FACTORS.map(|factor| (Action::Scale(factor), Unit::Absolute)).to_vec()),
        ("add", &niche, DOSES.map(|dose| (Action::Add(dose), Unit::P99)).to_vec()),
    ];
    let answer = |(recipe, latents, actions): (&'static str, &Vec<LatentId>, Vec<(Action, Unit)>)| {
        let mut answer = response(request, recipe, latents, &actions)?;
        let edited = answer.edit.iter().flat_map(|edit| &edit.latents);
        let sum: f64 = edited.clone().map(|latent| leaning[latent.index()]).sum();
        answer.cohens_d = sum / edited.count().max(1) as f64;
        Ok(answer)
    };
    Ok(PopularityReport {
        before: of_lists(request, request.report, &request.report.before),
        recipes: recipes.map(answer).into_iter().collect::<anyhow::Result<_>>()?,
    })
}

fn response(
    request: &SteerRequest<'_>,
    recipe: &'static str,
    latents: &[LatentId],
    actions: &[(Action, Unit)],
) -> anyhow::Result<PopularityResponse> {
    let before = of_lists(request, request.choose, &request.choose.before);
    let (mut choice, mut chosen) = (before, None);
    for n in counts(latents.len(), request.most_latents) {
        for (action, unit) in actions {
            let edit = Edit { concept: Some("popularity".into()), latents: latents[..n].to_vec(), action: *action, unit: *unit };
            let lists = steered(request, request.choose, &edit)?.0;
            let lists = of_lists(request, request.choose, &lists);
            if lists.ndcg < request.floor() {
                // The actions are ordered from the mildest.
                break;
            }
            if lists.coverage > choice.coverage {
                (choice, chosen) = (lists, Some(edit));
            }
        }
    }
    let unsteered = of_lists(request, request.report, &request.report.before);
    let alone = (unsteered.coverage, unsteered.coverage);
    let nothing = PopularityResponse {
        recipe,
        edit: None,
        cohens_d: 0.0,
        choice,
        moved: 0.0,
        lists: unsteered,
        control_latents: alone,
        random_directions: alone,
        raised: false,
    };
    let Some(edit) = chosen else { return Ok(nothing) };
    let (lists, moved, lengths) = steered(request, request.report, &edit)?;
    let lists = of_lists(request, request.report, &lists);
    let (control_latents, random_directions) = controls(request, &edit, &lengths)?;
    let raised = lists.coverage > unsteered.coverage.max(control_latents.1).max(random_directions.1);
    Ok(PopularityResponse { edit: Some(edit), moved, lists, control_latents, random_directions, raised, ..nothing })
}

fn steered(request: &SteerRequest<'_>, scene: &Scene, edit: &Edit) -> anyhow::Result<(Lists, f64, Vec<f32>)> {
    let world = request.world;
    let plan = Plan { edits: vec![edit.clone()], cap: world.cap, ..Plan::default() };
    let (vectors, moved) = steer(world, scene, &plan).context(NO_DECODER)?;
    let lists = recommend(vectors.view(), world.items, world.padding, &scene.cases, world.top);
    Ok((lists, moved, lengths(&vectors, &scene.vectors)))
}

fn of_lists(request: &SteerRequest<'_>, scene: &Scene, lists: &Lists) -> ListReport {
    report(lists, &scene.before, request.world.items.nrows(), request.world.padding)
}

/// Coverage, lowest and highest, along the rows of as many other latents, the way the edit goes, and along random directions.
fn controls(request: &SteerRequest<'_>, edit: &Edit, lengths: &[f32]) -> anyhow::Result<((f64, f64), (f64, f64))> {
    let (world, scene) = (request.world, request.report);
    let sign = if matches!(edit.action, Action::Add(_)) { 1.0 } else { -1.0 };
    let others = world.others(&edit.latents);
    let mut rng = ChaCha8Rng::seed_from_u64(world.seed);
    let coverage = |direction: &[f32]| of_lists(request, scene, &moved_by(world, scene, lengths, direction)).coverage;
    let (mut by_latents, mut by_directions) = (Vec::new(), Vec::new());
    for _ in 0..CONTROLS {
        let drawn: Vec<LatentId> = others.choose_multiple(&mut rng, edit.latents.len()).copied().collect();
        let direction: Vec<f32> = sum_of_rows(world, &drawn).context(NO_DECODER)?.iter().map(|w| sign * w).collect();
        by_latents.push(coverage(&direction));
        by_directions.push(coverage(&random_direction(&mut rng, scene.vectors.ncols())));
    }
    let ends = |of: &[f64]| (of.iter().copied().fold(1.0, f64::min), of.iter().copied().fold(0.0, f64::max));
    Ok((ends(&by_latents), ends(&by_directions)))
}

/// Latents of a score above zero, highest first.
fn ranked(scores: impl Iterator<Item = f64>) -> Vec<LatentId> {
    let mut found: Vec<(f64, LatentId)> =
        scores.zip(0u32..).filter(|(score, _)| *score > 0.0).map(|(score, at)| (score, LatentId(at))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    found.into_iter().map(|(_, latent)| latent).collect()
}

fn mean_activations(activations: &SparseActivations, d_sae: usize) -> Vec<f64> {
    let mut means = vec![0f64; d_sae];
    let n = activations.n_rows().max(1) as f64;
    for row in 0..activations.n_rows() {
        let (latents, values) = activations.row(row);
        latents.iter().zip(values).for_each(|(latent, value)| means[latent.index()] += f64::from(*value) / n);
    }
    means
}

/// Whether each row is recommended what is more popular than in the middle row.
fn led_to_the_popular(lists: &Lists, logs: &[f64]) -> Vec<bool> {
    let mean = |items: &Vec<usize>| items.iter().map(|item| logs[*item]).sum::<f64>() / items.len().max(1) as f64;
    let of_rows: Vec<f64> = lists.items.iter().map(mean).collect();
    let mut sorted = of_rows.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    of_rows.iter().map(|value| *value > median).collect()
}

/// Cohen's d of each latent's activation between rows with `high` and the others: how far it leans to
/// them, in pooled standard deviations. 0 where it does not vary.
#[must_use]
pub fn cohens_d(high: &[bool], activations: &SparseActivations, d_sae: usize) -> Vec<f64> {
    let n_high = high.iter().filter(|high| **high).count() as f64;
    let sizes = [high.len() as f64 - n_high, n_high];
    let mut sums = [vec![(0f64, 0f64); d_sae], vec![(0f64, 0f64); d_sae]];
    for (row, high) in high.iter().enumerate() {
        let (latents, values) = activations.row(row);
        for (latent, value) in latents.iter().zip(values) {
            let sum = &mut sums[usize::from(*high)][latent.index()];
            *sum = (sum.0 + f64::from(*value), sum.1 + f64::from(*value).powi(2));
        }
    }
    let moments = |side: usize, latent: usize| {
        let (sum, squares) = sums[side][latent];
        let n = sizes[side].max(1.0);
        (sum / n, (squares / n - (sum / n).powi(2)).max(0.0))
    };
    let d = |latent: usize| {
        let ((low_mean, low_variance), (high_mean, high_variance)) = (moments(0, latent), moments(1, latent));
        let pooled = (sizes[0] * low_variance + sizes[1] * high_variance) / (sizes[0] + sizes[1]).max(1.0);
        if pooled > 0.0 { (high_mean - low_mean) / pooled.sqrt() } else { 0.0 }
    };
    (0..d_sae).map(d).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workshop::steer::concepts::tests::activations;

    #[test]
    fn latents_rank_by_score_and_those_without_are_left_out() {
        assert_eq!(ranked([0.5, -1.0, 0.0, 2.0, 0.5].into_iter()), [3, 0, 4].map(LatentId));
        let means = mean_activations(&activations(), 4);
        assert!((means[0] - 199.0 / 200.0).abs() < 1e-12 && (means[1] - 1.0).abs() < 1e-12 && means[3] == 0.0, "{means:?}");
    }

    #[test]
    fn cohens_d_equals_its_formula() {
        let high: Vec<bool> = (0..200).map(|row| row < 100).collect();
        let d = cohens_d(&high, &activations(), 4);
        // Latent 0 among the high: 34 ones, 33 twos, 33 threes; nothing among the others.
        let mean = (34.0 + 66.0 + 99.0) / 100.0;
        let variance = (34.0 + 33.0 * 4.0 + 33.0 * 9.0) / 100.0 - mean * mean;
        assert!((d[0] - mean / f64::sqrt(variance / 2.0)).abs() < 1e-9);
        assert!(d[1].abs() < 1e-9 && d[3] == 0.0);
    }
}
