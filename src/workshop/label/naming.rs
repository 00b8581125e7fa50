//! The rule that names a latent, or leaves it without a name.
//!
//! A tag names a latent when
//! 1. it is enriched twice: among the latent's characteristic items (hypergeometric, an item is one case,
//!    so that one popular item proves nothing) and among the cases the latent is active in;
//! 2. the larger of the two p-values survives Benjamini-Hochberg over all pairs of a latent and a tag;
//! 3. it tells something: lift and precision reach their minimum.
//!
//! And a latent has cases of several users, or no name: what one user's vector shows again and again is that user's
//! taste (seen on vectors that are one a user, with what each met before as evidence: 16 of 146 names were of one user).
//!
//! Of several such tags the one whose log-odds are surely largest is the name. Significance alone was tried and
//! rejected: with 50,000 cases a lift of 1.1 is significant and names nothing.

use crate::sae::latent::LatentId;
use crate::workshop::label::cases::Cases;
use crate::workshop::label::characteristic::{ItemCounts, characteristic_items};
use crate::workshop::label::false_discovery::ln_q_values;
use crate::workshop::label::hypergeometric::Overlap;
use crate::workshop::label::presence::Presence;
use crate::workshop::label::ranking::{TagCount, auc, log_odds, tf_idf};
use crate::workshop::label::tags::TagTable;

/// Levels of the rule.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Rule {
    /// Largest share of false names expected, over all pairs. Default 1 %.
    pub q: f64,
    /// Least lift among cases. Default 1.5: below it a name describes everything else almost as well.
    pub min_lift: f64,
    /// Least P(tag | active). Default 0.5: below it most of what the latent shows is something else.
    pub min_precision: f64,
    /// Least number of cases of a latent. Default 10: fewer cannot reach any level after correction.
    pub min_cases: usize,
    /// Least number of entities those cases are of. Default 10, as many as cases: one entity's cases resemble each other.
    pub min_entities: usize,
    /// Least number of characteristic items with the tag. Default 3: fewer are items, not a concept.
    pub min_items: u64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { q: 0.01, min_lift: 1.5, min_precision: 0.5, min_cases: 10, min_entities: 10, min_items: 3 }
    }
}

/// A tag that is enriched for a latent, with everything that is known of the pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Number of the tag in its table.
    pub tag: usize,
    /// Larger of the two ln p.
    pub ln_p: f64,
    /// ln of its q-value over all pairs.
    pub ln_q: f64,
    /// Counted by cases.
    pub cases: Overlap,
    /// Counted by items: characteristic items against all that were seen.
    pub items: Overlap,
    /// Of the activation, for the tag.
    pub auc: f64,
    /// Lower end of the log-odds' interval, by which tags are ranked.
    pub log_odds: f64,
    /// RecSAE's ranking.
    pub tf_idf: f64,
}

impl Candidate {
    /// Whether the pair passes the whole rule.
    #[must_use]
    pub fn names(&self, rule: &Rule) -> bool {
        self.ln_q <= rule.q.ln()
            && self.cases.lift() >= rule.min_lift
            && self.cases.precision() >= rule.min_precision
            && self.items.n_both >= rule.min_items
    }
}

/// Why a latent has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoName {
    /// It was never active.
    Dead,
    /// Fewer cases than the rule asks for.
    TooFewCases,
    /// Its cases are of fewer entities than the rule asks for.
    TooFewEntities,
    /// Too few items are characteristic of it.
    TooFewItems,
    /// No tag is enriched.
    NothingEnriched,
    /// Tags are enriched, but lift or precision are below their minimum.
    NothingTelling,
}

/// What the cases say of one latent.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentEvidence {
    /// The latent.
    pub latent: LatentId,
    /// Cases it is active in.
    pub n_active: usize,
    /// Entities of those cases.
    pub n_entities: usize,
    /// Characteristic items, the surest first.
    pub items: Vec<u32>,
    /// Enriched tags: those that pass the whole rule first, then by log-odds.
    pub candidates: Vec<Candidate>,
    /// The first candidate's tag, or why there is no name.
    pub name: Result<usize, NoName>,
}

/// The names of all latents.
#[derive(Clone, Debug, PartialEq)]
pub struct Naming {
    /// By latent.
    pub latents: Vec<LatentEvidence>,
    /// Pairs in the correction: latents with enough cases, times tags.
    pub n_pairs: usize,
    /// Items that a case needs to carry a tag, by tag.
    pub at_least: Vec<u32>,
}

impl Naming {
    /// Latents with a name.
    pub fn named(&self) -> impl Iterator<Item = (&LatentEvidence, &Candidate)> {
        self.latents.iter().filter(|latent| latent.name.is_ok()).filter_map(|latent| Some((latent, latent.candidates.first()?)))
    }
}

/// Names every latent that can be named.
#[must_use]
pub fn name_latents(cases: &Cases, tags: &TagTable, rule: &Rule) -> Naming {
    let counts = ItemCounts::new(cases, tags.n_items());
    let items: Vec<Vec<u32>> = (0..cases.n_latents()).map(|latent| items_of(cases, &counts, rule, latent)).collect();
    name_with_items(cases, tags, rule, &counts, items)
}

/// Characteristic items of a latent that has cases enough for a name; else none, and it is not among the pairs.
#[must_use]
pub fn items_of(cases: &Cases, counts: &ItemCounts, rule: &Rule, latent: usize) -> Vec<u32> {
    let enough = cases.active(latent).len() >= rule.min_cases && cases.n_entities(latent) >= rule.min_entities;
    if enough { characteristic_items(cases, counts, latent) } else { Vec::new() }
}

/// [`name_latents`] where the characteristic items are known: they do not depend on the tags.
#[must_use]
pub fn name_with_items(cases: &Cases, tags: &TagTable, rule: &Rule, counts: &ItemCounts, items: Vec<Vec<u32>>) -> Naming {
    let presence = Presence::new(cases, tags, None);
    let population = Population::new(tags, &counts.seen());
    let inside: Vec<Vec<(usize, u64)>> = items.iter().map(|items| population.count_tags(tags, items)).collect();
    let mut n_with = vec![0; tags.tags().len()];
    inside.iter().flatten().for_each(|(tag, _)| n_with[*tag] += 1);
    let n_eligible = items.iter().filter(|items| !items.is_empty()).count();
    let n_pairs = n_eligible * tags.tags().len();

    // The test by items is cheap and first: what it does not find at q can never be found after correction.
    let mut pairs: Vec<(usize, Candidate)> = Vec::new();
    for (latent, with_tag) in inside.iter().enumerate() {
        for &(tag, n_both) in with_tag {
            let by_items =
                Overlap { n_cases: population.n_items, n_tagged: population.tagged[tag], n_active: items[latent].len() as u64, n_both };
            let ln_p_items = by_items.ln_p_value();
            if ln_p_items > rule.q.ln() {
                continue;
            }
            let active = cases.active(latent);
            let by_cases = Overlap {
                n_cases: cases.len() as u64,
                n_tagged: presence.n_tagged(tag),
                n_active: active.len() as u64,
                n_both: active.iter().filter(|(case, _)| presence.has(tag, *case as usize)).count() as u64,
            };
            let ln_p = ln_p_items.max(by_cases.ln_p_value());
            let candidate = Candidate { tag, ln_p, ln_q: 0.0, cases: by_cases, items: by_items, auc: 0.5, log_odds: 0.0, tf_idf: 0.0 };
            pairs.push((latent, candidate));
        }
    }
    let ln_p: Vec<f64> = pairs.iter().map(|(_, pair)| pair.ln_p).collect();
    let mut by_latent: Vec<Vec<Candidate>> = vec![Vec::new(); cases.n_latents()];
    for ((latent, mut pair), ln_q) in pairs.into_iter().zip(ln_q_values(&ln_p, n_pairs)) {
        if ln_q > rule.q.ln() {
            continue;
        }
        pair.ln_q = ln_q;
        pair.auc = auc(cases.active(latent), &presence, pair.tag, cases.len());
        pair.log_odds = population.log_odds(tags, &inside[latent], pair.tag);
        let n_all: u64 = inside[latent].iter().map(|(_, count)| count).sum();
        pair.tf_idf = tf_idf(to_usize(pair.items.n_both), to_usize(n_all), n_with[pair.tag], n_eligible);
        by_latent[latent].push(pair);
    }
    let latents = by_latent
        .into_iter()
        .zip(items)
        .enumerate()
        .map(|(latent, (candidates, items))| evidence(cases, rule, latent, items, candidates))
        .collect();
    Naming { latents, n_pairs, at_least: presence.at_least().to_vec() }
}

fn evidence(cases: &Cases, rule: &Rule, latent: usize, items: Vec<u32>, mut candidates: Vec<Candidate>) -> LatentEvidence {
    candidates.sort_by(|a, b| b.names(rule).cmp(&a.names(rule)).then(b.log_odds.total_cmp(&a.log_odds)).then(a.tag.cmp(&b.tag)));
    let (n_active, n_entities) = (cases.active(latent).len(), cases.n_entities(latent));
    let name = match candidates.first() {
        _ if n_active == 0 => Err(NoName::Dead),
        _ if n_active < rule.min_cases => Err(NoName::TooFewCases),
        _ if n_entities < rule.min_entities => Err(NoName::TooFewEntities),
        _ if (items.len() as u64) < rule.min_items => Err(NoName::TooFewItems),
        None => Err(NoName::NothingEnriched),
        Some(best) if best.names(rule) => Ok(best.tag),
        Some(_) => Err(NoName::NothingTelling),
    };
    let latent_id = LatentId(u32::try_from(latent).unwrap_or(u32::MAX));
    LatentEvidence { latent: latent_id, n_active, n_entities, items, candidates, name }
}

/// Tags over all items that were seen.
struct Population {
    n_items: u64,
    tagged: Vec<u64>,
    /// By tag, number of its source; by source, occurrences of all its tags.
    source_of: Vec<usize>,
    in_source: Vec<u64>,
}

impl Population {
    fn new(tags: &TagTable, seen: &[u32]) -> Self {
        let mut tagged = vec![0; tags.tags().len()];
        seen.iter().flat_map(|item| tags.of_item(*item)).for_each(|tag| tagged[*tag as usize] += 1);
        let mut sources: Vec<&str> = Vec::new();
        let mut source_of = Vec::with_capacity(tagged.len());
        for tag in tags.tags() {
            let known = sources.iter().position(|source| *source == tag.source);
            source_of.push(known.unwrap_or(sources.len()));
            if known.is_none() {
                sources.push(&tag.source);
            }
        }
        let mut in_source = vec![0; sources.len()];
        tagged.iter().zip(&source_of).for_each(|(count, source)| in_source[*source] += count);
        Self { n_items: seen.len() as u64, tagged, source_of, in_source }
    }

    /// Tags of these items with their number of items, tags ascending.
    fn count_tags(&self, tags: &TagTable, items: &[u32]) -> Vec<(usize, u64)> {
        let mut all: Vec<u32> = items.iter().flat_map(|item| tags.of_item(*item)).copied().collect();
        all.sort_unstable();
        all.chunk_by(|a, b| a == b).map(|same| (same[0] as usize, same.len() as u64)).collect()
    }

    fn log_odds(&self, tags: &TagTable, inside: &[(usize, u64)], tag: usize) -> f64 {
        debug_assert!(tag < tags.tags().len());
        let source = self.source_of[tag];
        let of_source = inside.iter().filter(|(other, _)| self.source_of[*other] == source);
        let all_inside: u64 = of_source.map(|(_, count)| count).sum();
        let inside_tag = inside.iter().find(|(other, _)| *other == tag).map_or(0, |(_, count)| *count);
        log_odds(
            TagCount { tag: inside_tag as f64, all: all_inside as f64 },
            TagCount { tag: (self.tagged[tag] - inside_tag) as f64, all: (self.in_source[source] - all_inside) as f64 },
        )
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 300 users are served 4 of 100 items each; latent 0 is active for those who get two horror films,
    /// latent 1 by chance, latent 2 never.
    fn world() -> (Cases, TagTable) {
        let genre = |item: u32| if item < 15 { vec!["Horror".to_owned()] } else { vec![format!("other {}", item % 7)] };
        let tags = TagTable::collect(100, &[("genres".into(), (0..100).map(genre).collect())]);
        let mut cases = Cases::new(3);
        for user in 0..300_u64 {
            let pick = |n: u64| u32::try_from((user * 7919 + n * 104_729) % 85).unwrap() + 15;
            let mut items: Vec<u32> = (0..4).map(pick).collect();
            let mut active = Vec::new();
            if user % 6 == 0 {
                items[0] = u32::try_from(user / 6 % 15).unwrap();
                items[1] = u32::try_from(user / 2 % 15).unwrap();
                active.push(LatentId(0));
            }
            if user % 5 == 0 {
                active.push(LatentId(1));
            }
            cases.push(user, items, &active, &[1.0, 1.0][..active.len()]);
        }
        (cases, tags)
    }

    #[test]
    fn a_latent_that_follows_a_tag_gets_its_name_and_no_other_does() {
        let (cases, tags) = world();
        let naming = name_latents(&cases, &tags, &Rule::default());
        let [first, second, third] = &naming.latents[..] else { panic!("three latents") };
        assert_eq!(first.name.map(|tag| tags.tags()[tag].to_string()), Ok("Horror".into()));
        let best = &first.candidates[0];
        assert!(best.cases.precision() > 0.99 && best.cases.recall() > 0.99 && best.auc > 0.99, "{best:?}");
        assert!(second.name.is_err(), "{second:?}");
        assert_eq!(third.name, Err(NoName::Dead));
        assert_eq!(naming.named().count(), 1);
    }

    #[test]
    fn a_latent_of_few_cases_gets_no_name() {
        let (cases, tags) = world();
        let rule = Rule { min_cases: 51, ..Rule::default() };
        assert_eq!(name_latents(&cases, &tags, &rule).latents[0].name, Err(NoName::TooFewCases));
    }

    #[test]
    fn what_a_few_users_vectors_show_again_and_again_is_no_name() {
        let (cases, tags) = world();
        // The same cases, of 60 users instead of 300 at 50 active ones: latent 0 is active for ten, or for nine of them.
        for (n_users, named) in [(10, true), (9, false)] {
            let mut of_few = Cases::new(3);
            for case in 0..cases.len() {
                let active: Vec<LatentId> =
                    (0u32..3).filter(|l| cases.active(*l as usize).iter().any(|(at, _)| *at as usize == case)).map(LatentId).collect();
                let user = if active.contains(&LatentId(0)) { case as u64 / 6 % n_users } else { 100 + case as u64 % 50 };
                of_few.push(user, cases.items(case).to_vec(), &active, &vec![1.0 + case as f32; active.len()]);
            }
            let name = name_latents(&of_few, &tags, &Rule::default()).latents[0].name;
            assert_eq!(name.is_ok(), named, "{name:?}");
            assert!(named || name == Err(NoName::TooFewEntities));
        }
    }

    #[test]
    fn a_significant_tag_that_tells_little_is_no_name() {
        let (cases, tags) = world();
        let rule = Rule { min_lift: 100.0, ..Rule::default() };
        assert_eq!(name_latents(&cases, &tags, &rule).latents[0].name, Err(NoName::NothingTelling));
    }

    #[test]
    fn nothing_at_all_is_no_fault() {
        let naming = name_latents(&Cases::new(2), &TagTable::default(), &Rule::default());
        assert_eq!((naming.named().count(), naming.n_pairs), (0, 0));
    }
}
