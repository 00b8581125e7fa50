//! What steering by one tag does: its latents and dose chosen on some rows, its effect reported on others.

use anyhow::Context;
use serde::Serialize;

use crate::sae::latent::LatentId;
use crate::workshop::steer::concepts::{TagLatent, beside_tag, named, standing_for};
use crate::workshop::steer::dose::{DOSES, Dose, Scene, add_plan, steer, try_dose, unsteered};
use crate::workshop::steer::lists::{recommend, tag_shares};
use crate::workshop::steer::request::{SteerRequest, counts};

/// One tag: its latents, its doses on the rows of the choice, and the chosen one on the rows of the report.
#[derive(Clone, Debug, Serialize)]
pub struct TagResponse {
    /// The tag.
    pub tag: String,
    /// The latents it is steered by.
    pub latents: Vec<TagLatent>,
    /// Doses of them on the rows they were chosen on, up to the first that costs too much.
    pub doses: Vec<Dose>,
    /// Without steering, on the rows of the report.
    pub before: Dose,
    /// The chosen dose there; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Dose>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<&'static str>,
    /// Whether the tag's share moved beyond both controls.
    pub moved: bool,
}

/// Chooses and reports.
///
/// # Errors
/// The SAE has no decoder.
pub fn tag_response(request: &SteerRequest<'_>, tag: &str, has_tag: &[bool]) -> anyhow::Result<TagResponse> {
    let before = unsteered(request.world, request.report, has_tag);
    let nothing = |why: &'static str| TagResponse {
        tag: tag.to_owned(),
        latents: Vec::new(),
        doses: Vec::new(),
        before,
        chosen: None,
        why_not: Some(why),
        moved: false,
    };
    let concept = request.accepted.map(|accepted| accepted.get(tag).map_or(&[][..], Vec::as_slice));
    if concept.is_some_and(<[_]>::is_empty) {
        return Ok(nothing("no accepted concept"));
    }
    let candidates = candidates(request, has_tag, concept)?;
    if candidates.is_empty() {
        return Ok(nothing(if concept.is_some() { "no latent of its concept pulls for it" } else { "no latent stands for it" }));
    }
    let Some((latents, dose)) = best(request, &candidates, has_tag)? else { return Ok(nothing("no dose is worth its cost")) };
    let ids: Vec<LatentId> = latents.iter().map(|latent| latent.latent).collect();
    let others = request.world.others(&ids);
    let attempt = |scene: &Scene, dose: f32| try_dose(request.world, scene, &ids, &others, has_tag, dose).context(NO_DECODER);
    let mut doses = vec![unsteered(request.world, request.choose, has_tag)];
    for dose in DOSES {
        let tried = attempt(request.choose, dose)?;
        doses.push(tried);
        if tried.lists.ndcg < request.floor() {
            break;
        }
    }
    let chosen = attempt(request.report, dose)?;
    let moved = chosen.beyond_controls();
    Ok(TagResponse { tag: tag.to_owned(), latents: latents.to_vec(), doses, before, chosen: Some(chosen), why_not: None, moved })
}

pub(super) const NO_DECODER: &str = "expected a decoder (W_dec), found none";

fn candidates(request: &SteerRequest<'_>, has_tag: &[bool], concept: Option<&[LatentId]>) -> anyhow::Result<Vec<TagLatent>> {
    let (world, choose) = (request.world, request.choose);
    let values: Vec<f64> = has_tag.iter().map(|has| f64::from(u8::from(*has))).collect();
    let pulls = request.soft.pulls(&values, world.items, world.sae.w_dec().context(NO_DECODER)?);
    let latents = beside_tag(&tag_shares(&choose.before, has_tag), &choose.activations, &pulls);
    Ok(match concept {
        Some(concept) => named(latents, concept),
        None => standing_for(latents),
    })
}

/// How many of the candidates, at which dose, raise the share most without costing too much.
fn best<'a>(request: &SteerRequest<'_>, candidates: &'a [TagLatent], has_tag: &[bool]) -> anyhow::Result<Option<(&'a [TagLatent], f32)>> {
    let (world, choose) = (request.world, request.choose);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (mut highest, mut found) = (mean(&tag_shares(&choose.before, has_tag)), None);
    for n in counts(candidates.len(), request.most_latents) {
        let latents = &candidates[..n];
        let ids: Vec<LatentId> = latents.iter().map(|latent| latent.latent).collect();
        for dose in DOSES {
            let (steered, _) = steer(world, choose, &add_plan(&ids, dose, world.cap)).context(NO_DECODER)?;
            let lists = recommend(steered.view(), world.items, world.padding, &choose.cases, world.top);
            if mean(&lists.ndcg) < request.floor() {
                break;
            }
            let share = mean(&tag_shares(&lists, has_tag));
            if share > highest {
                (highest, found) = (share, Some((latents, dose)));
            }
        }
    }
    Ok(found)
}
