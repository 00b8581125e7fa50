//! What ranks the tags of a latent, and what is reported beside them: log-odds, TF-IDF, AUC.

use crate::workshop::label::presence::Presence;

/// Weight of the prior of [`log_odds`], in tag occurrences: a set of ten items is shrunk by half.
pub const PRIOR_WEIGHT: f64 = 20.0;

/// Standard deviations of a 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// Counts behind a log-odds: of the tag, and of all tags of its source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TagCount {
    /// Items with the tag.
    pub tag: f64,
    /// Occurrences of all tags of the source.
    pub all: f64,
}

/// Lower end of the 95 % interval of the log-odds of a tag inside a set of items against the rest, with an
/// informative Dirichlet prior: `alpha_t = w (inside + outside)_t / (inside + outside)_all`,
/// `delta = ln((i_t + alpha_t) / (i_all + w - i_t - alpha_t)) - ln((o_t + alpha_t) / (o_all + w - o_t - alpha_t))`,
/// `sigma^2 = 1 / (i_t + alpha_t) + 1 / (o_t + alpha_t)`, result `delta - 1.96 sigma`. 0 where no item has a tag.
/// (Monroe, Colaresi and Quinn 2008, "Fightin' words", eq. 16 and 20.)
///
/// Their z, `delta / sigma`, was tried for ranking and rejected: a tag that lies in the set alone has an
/// uncertain count outside, so a genre of 150 items came before the concept of the very twelve items. The
/// end of the interval asks how large the effect surely is, not how surely there is one.
#[must_use]
pub fn log_odds(inside: TagCount, outside: TagCount) -> f64 {
    let all = inside.all + outside.all;
    let alpha = if all > 0.0 { PRIOR_WEIGHT * (inside.tag + outside.tag) / all } else { 0.0 };
    let odds = |count: TagCount| (count.tag + alpha) / (count.all + PRIOR_WEIGHT - count.tag - alpha);
    let (odds_in, odds_out) = (odds(inside), odds(outside));
    if alpha <= 0.0 || odds_in <= 0.0 || odds_out <= 0.0 || !odds_in.is_finite() || !odds_out.is_finite() {
        return 0.0;
    }
    let sigma = (1.0 / (inside.tag + alpha) + 1.0 / (outside.tag + alpha)).sqrt();
    odds_in.ln() - odds_out.ln() - Z * sigma
}

/// TF-IDF of a tag among a latent's items, as RecSAE ranks words: its share of the tags there, times
/// `ln((1 + n) / (1 + n_with)) + 1` over the `n` latents, of which `n_with` have the tag among their items.
#[must_use]
pub fn tf_idf(n_tag: usize, n_all_tags: usize, n_with: usize, n: usize) -> f64 {
    if n_all_tags == 0 {
        return 0.0;
    }
    let idf = ((1 + n) as f64 / (1 + n_with) as f64).ln() + 1.0;
    n_tag as f64 / n_all_tags as f64 * idf
}

/// `P(activation in a case with the tag > activation in one without) + P(equal) / 2`; inactive cases have 0.
/// 0.5 where all cases or none carry the tag. `active` are the latent's cases with their values (> 0).
#[must_use]
pub fn auc(active: &[(u32, f32)], presence: &Presence, tag: usize, n_cases: usize) -> f64 {
    let n_tagged = presence.n_tagged(tag) as f64;
    let n_bare = n_cases as f64 - n_tagged;
    if n_tagged == 0.0 || n_bare == 0.0 {
        return 0.5;
    }
    let mut by_value: Vec<(f32, bool)> = active.iter().map(|(case, value)| (*value, presence.has(tag, *case as usize))).collect();
    by_value.sort_by(|a, b| a.0.total_cmp(&b.0));
    let active_tagged = by_value.iter().filter(|(_, tagged)| *tagged).count() as f64;
    let inactive_bare = n_bare - (by_value.len() as f64 - active_tagged);
    // Inactive cases tie at 0 with each other and lie below every active one.
    let mut wins = (n_tagged - active_tagged) * inactive_bare / 2.0;
    let mut bare_below = inactive_bare;
    for same in by_value.chunk_by(|a, b| a.0 == b.0) {
        let tagged = same.iter().filter(|(_, tagged)| *tagged).count() as f64;
        let bare = same.len() as f64 - tagged;
        wins += tagged * (bare_below + bare / 2.0);
        bare_below += bare;
    }
    wins / (n_tagged * n_bare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workshop::label::cases::Cases;
    use crate::workshop::label::tags::TagTable;

    #[test]
    fn a_narrow_tag_ranks_before_a_broad_one_that_covers_as_much() {
        let narrow = log_odds(TagCount { tag: 10.0, all: 30.0 }, TagCount { tag: 0.0, all: 970.0 });
        let broad = log_odds(TagCount { tag: 10.0, all: 30.0 }, TagCount { tag: 200.0, all: 970.0 });
        assert!(narrow > broad && narrow > 0.0, "{narrow} {broad}");
        // As many items in the set; the broad tag's count outside is the surer one.
        let (concept, genre) = (TagCount { tag: 15.0, all: 18.0 }, TagCount { tag: 15.0, all: 18.0 });
        let (concept, genre) =
            (log_odds(concept, TagCount { tag: 0.0, all: 1782.0 }), log_odds(genre, TagCount { tag: 135.0, all: 1782.0 }));
        assert!(concept > genre && genre > 0.0, "{concept} {genre}");
        assert_eq!(log_odds(TagCount::default(), TagCount::default()), 0.0);
        assert_eq!(log_odds(TagCount::default(), TagCount { tag: 0.0, all: 5.0 }), 0.0);
    }

    #[test]
    fn log_odds_equal_the_formula_by_hand() {
        // alpha = 20 * 10 / 100 = 2; (3 + 2) / (10 + 20 - 5) = .2; (7 + 2) / (90 + 20 - 9) = 9 / 101.
        let ours = log_odds(TagCount { tag: 3.0, all: 10.0 }, TagCount { tag: 7.0, all: 90.0 });
        let by_hand = 0.2_f64.ln() - (9.0_f64 / 101.0).ln() - 1.959_963_984_540_054 * (1.0_f64 / 5.0 + 1.0 / 9.0).sqrt();
        assert!((ours - by_hand).abs() < 1e-14);
    }

    #[test]
    fn a_tag_of_every_latent_is_worth_less() {
        assert!(tf_idf(5, 10, 1, 100) > tf_idf(5, 10, 90, 100));
        assert_eq!(tf_idf(0, 0, 0, 0), 0.0);
    }

    #[test]
    fn auc_equals_counting_every_pair() {
        let tags = TagTable::collect(6, &[("t".into(), (0..6).map(|item| if item < 3 { vec!["x".into()] } else { vec![] }).collect())]);
        let mut cases = Cases::new(1);
        let values = [3.0, 0.0, 1.0, 1.0, 0.0, 2.0, 0.0_f32];
        let mut active = Vec::new();
        for (case, (value, item)) in values.into_iter().zip([0_u32, 1, 2, 3, 4, 5, 0]).enumerate() {
            cases.push(case as u64, vec![item], &[], &[]);
            if value > 0.0 {
                active.push((u32::try_from(case).unwrap(), value));
            }
        }
        let presence = Presence::new(&cases, &tags, Some(&[1]));
        let mut wins = 0.0;
        let mut pairs = 0.0;
        for (a, b) in (0..7).flat_map(|a| (0..7).map(move |b| (a, b))).filter(|(a, b)| presence.has(0, *a) && !presence.has(0, *b)) {
            pairs += 1.0;
            wins += if values[a] > values[b] {
                1.0
            } else if values[a] == values[b] {
                0.5
            } else {
                0.0
            };
        }
        assert!((auc(&active, &presence, 0, 7) - wins / pairs).abs() < 1e-15);
    }
}
