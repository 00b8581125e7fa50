//! Naming latents without a language model: which tags of the items stand out where a latent is active.
//!
//! The flow: cases (what was served, which latents were active) and tags (from an items table) →
//! characteristic items of each latent → enrichment by items and by cases, corrected over all pairs →
//! one name or none. Tags dealt anew among the items show how many names chance would give.
//!
//! Users and items that are held out never enter: `recsae verify` tests the names on them.

pub mod cases;
pub mod characteristic;
pub mod false_discovery;
pub mod gather;
pub mod hypergeometric;
pub mod items;
pub mod llm;
pub mod naming;
pub mod presence;
pub mod propose;
pub mod ranking;
pub mod report;
pub mod tags;

use crate::sae::hold_out::HoldOut;
use crate::workshop::label::cases::Cases;
use crate::workshop::label::characteristic::ItemCounts;
use crate::workshop::label::gather::Gathered;
use crate::workshop::label::items::Items;
use crate::workshop::label::naming::{Naming, Rule, items_of, name_with_items};
use crate::workshop::label::tags::TagTable;

/// Names, the tags they are made of, and the names of chance.
#[derive(Clone, Debug)]
pub struct Labelling {
    /// Cases the names are made from.
    pub cases: Cases,
    /// Tags of the items, popularity bands by those cases among them.
    pub tags: TagTable,
    /// The names.
    pub naming: Naming,
    /// Names found when the tags are dealt anew, one number a seed.
    pub shuffled: Vec<usize>,
}

/// Names the latents from the cases of users and items that are not held out, and again `n_shuffles`
/// times with the tags dealt anew (seeds 0, 1, ...). `progress` is told the deals done.
#[must_use]
pub fn label(
    gathered: &Gathered,
    items: &Items,
    hold_out: &HoldOut,
    rule: &Rule,
    n_shuffles: usize,
    progress: &dyn Fn(usize),
) -> Labelling {
    let cases = construction_cases(gathered, items, hold_out);
    let tags = tags_for(gathered, items, hold_out);
    let counts = ItemCounts::new(&cases, items.len());
    let characteristic: Vec<Vec<u32>> = (0..cases.n_latents()).map(|latent| items_of(&cases, &counts, rule, latent)).collect();
    let seen = counts.seen();
    let chance = |seed: usize| {
        let dealt = tags.shuffled(&seen, seed as u64);
        let named = name_with_items(&cases, &dealt, rule, &counts, characteristic.clone()).named().count();
        progress(seed + 1);
        named
    };
    let shuffled = (0..n_shuffles).map(chance).collect();
    let naming = name_with_items(&cases, &tags, rule, &counts, characteristic);
    Labelling { cases, tags, naming, shuffled }
}

/// The cases that names may be made from: users and items that are not held out.
#[must_use]
pub fn construction_cases(gathered: &Gathered, items: &Items, hold_out: &HoldOut) -> Cases {
    let (entity_out, item_out) = sides(gathered, items, hold_out);
    gathered.cases.only(|entity| !is_out(&entity_out, entity), |item| !item_out[item as usize])
}

/// The cases that names are tested on: users and items that are both held out.
#[must_use]
pub fn held_out_cases(gathered: &Gathered, items: &Items, hold_out: &HoldOut) -> Cases {
    let (entity_out, item_out) = sides(gathered, items, hold_out);
    gathered.cases.only(|entity| is_out(&entity_out, entity), |item| item_out[item as usize])
}

/// The tags; popularity is what the users that are not held out were shown, of all items.
#[must_use]
pub fn tags_for(gathered: &Gathered, items: &Items, hold_out: &HoldOut) -> TagTable {
    let (entity_out, _) = sides(gathered, items, hold_out);
    items.tags(&gathered.cases.only(|entity| !is_out(&entity_out, entity), |_| true).item_counts(items.len()))
}

fn sides(gathered: &Gathered, items: &Items, hold_out: &HoldOut) -> (Vec<bool>, Vec<bool>) {
    let entities = gathered.entities.iter().map(|entity| hold_out.has_entity(entity)).collect();
    let items = (0..items.len()).filter_map(|item| u32::try_from(item).ok()).map(|item| hold_out.has_item(items.id(item))).collect();
    (entities, items)
}

fn is_out(entities: &[bool], entity: u64) -> bool {
    usize::try_from(entity).ok().and_then(|at| entities.get(at)).copied().unwrap_or(false)
}
