//! What a steering evaluation is made of.

use std::collections::BTreeMap;

use crate::sae::latent::LatentId;
use crate::workshop::steer::concepts::Tags;
use crate::workshop::steer::dose::{Scene, World};
use crate::workshop::steer::pull::SoftLists;

/// The whole question.
pub struct SteerRequest<'a> {
    /// The fixed part.
    pub world: World<'a>,
    /// Rows latents and doses are chosen on.
    pub choose: &'a Scene,
    /// Their softened lists.
    pub soft: &'a SoftLists,
    /// Rows of the report.
    pub report: &'a Scene,
    /// Tags of the items.
    pub tags: &'a Tags,
    /// Latents of the tags' accepted concepts; absent, a tag goes by the latents that stand for it.
    pub accepted: Option<&'a BTreeMap<String, Vec<LatentId>>>,
    /// How popular each item is.
    pub popularity: Option<&'a [f64]>,
    /// Latents that are edited together, at most.
    pub most_latents: usize,
    /// A dose may cost NDCG down to this share of the unsteered.
    pub keep_ndcg: f64,
}

impl SteerRequest<'_> {
    /// Least NDCG on the rows of the choice.
    #[must_use]
    pub fn floor(&self) -> f64 {
        let ndcg = &self.choose.before.ndcg;
        self.keep_ndcg * ndcg.iter().sum::<f64>() / ndcg.len().max(1) as f64
    }
}

/// How many of `n` candidates are edited together: 1, 2, 4, ... of them, at most `most`, and all where there are fewer.
pub fn counts(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let most = n.min(most);
    (0..).map(|power| 1usize << power).take_while(move |count| *count < most).chain((most > 0).then_some(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_double_up_to_the_most() {
        let of = |n, most| counts(n, most).collect::<Vec<_>>();
        assert_eq!((of(0, 16), of(1, 16), of(6, 16)), (vec![], vec![1], vec![1, 2, 4, 6]));
        assert_eq!((of(99, 16), of(99, 5)), (vec![1, 2, 4, 8, 16], vec![1, 2, 4, 5]));
    }
}
