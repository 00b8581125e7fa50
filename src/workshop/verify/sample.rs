//! Which held-out cases a label is tested on.
//!
//! Cases of one user resemble each other, so the sample goes round the users: the first case of each, then
//! the second, until it is full. A vector that is served again, as models of one vector a user do, is one case of a
//! class however many lists went with it: else the fifty cases of a test could all be one user's. Negatives are drawn twice: from all cases where the latent is inactive, and
//! from those where one of its nearest latents is active instead. The first asks whether the label says
//! anything, the second whether it says what is this latent's own.

use std::collections::{HashMap, HashSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::workshop::label::cases::Cases;

/// Most cases of a class: 200 give an interval of 7 points either way, more make it slower than surer.
pub const MOST_CASES: usize = 200;

/// Cases of one latent's test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Active, with the value.
    pub positive: Vec<(u32, f32)>,
    /// Inactive, any.
    pub random: Vec<u32>,
    /// Inactive, with a nearest latent active.
    pub nearest: Vec<u32>,
}

/// Draws a latent's sample; `nearest` are its most similar latents.
#[must_use]
pub fn draw(cases: &Cases, latent: usize, nearest: &[usize], seed: u64) -> Sample {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (latent as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let active = cases.active(latent);
    let is_active = |case: u32| active.binary_search_by_key(&case, |(case, _)| *case).is_ok();
    let mut positive: Vec<u32> = active.iter().map(|(case, _)| *case).collect();
    let mut random: Vec<u32> = (0..u32::try_from(cases.len()).unwrap_or(u32::MAX)).filter(|case| !is_active(*case)).collect();
    let mut near: Vec<u32> = nearest.iter().flat_map(|other| cases.active(*other)).map(|(case, _)| *case).collect();
    near.sort_unstable();
    near.dedup();
    near.retain(|case| !is_active(*case));
    for class in [&mut positive, &mut random, &mut near] {
        class.shuffle(&mut rng);
        let mut met = HashSet::new();
        class.retain(|case| met.insert(cases.vector(*case as usize)));
        round_the_users(cases, class);
        class.truncate(MOST_CASES);
    }
    let value = |case: u32| active.binary_search_by_key(&case, |(case, _)| *case).map_or(0.0, |at| active[at].1);
    Sample { positive: positive.into_iter().map(|case| (case, value(case))).collect(), random, nearest: near }
}

/// Orders cases so that each user's n-th stands before any user's (n + 1)-th; within a round as they were.
fn round_the_users(cases: &Cases, class: &mut Vec<u32>) {
    let mut met: HashMap<u64, usize> = HashMap::new();
    let mut by_round: Vec<(usize, u32)> = class
        .iter()
        .map(|case| {
            let round = met.entry(cases.entity(*case as usize)).or_default();
            *round += 1;
            (*round, *case)
        })
        .collect();
    by_round.sort_by_key(|(round, _)| *round);
    *class = by_round.into_iter().map(|(_, case)| case).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::latent::LatentId;

    fn cases() -> Cases {
        let mut cases = Cases::new(3);
        for case in 0..400_u32 {
            // User 0 has half of the cases where latent 0 is active.
            let entity = if case % 2 == 0 { 0 } else { u64::from(case) };
            // No vector twice.
            let latents: &[LatentId] = match case {
                0..100 => &[LatentId(0), LatentId(2)],
                100..150 => &[LatentId(1), LatentId(2)],
                _ => &[LatentId(2)],
            };
            cases.push(entity, vec![case], latents, &[1.0 + case as f32; 2][..latents.len()]);
        }
        cases
    }

    #[test]
    fn one_user_does_not_fill_the_sample() {
        let sample = draw(&cases(), 0, &[1], 7);
        let cases = cases();
        let first: Vec<u64> = sample.positive[..51].iter().map(|(case, _)| cases.entity(*case as usize)).collect();
        assert_eq!(first.iter().filter(|entity| **entity == 0).count(), 1, "{first:?}");
        assert_eq!((sample.positive.len(), sample.random.len(), sample.nearest.len()), (100, 200, 50));
    }

    #[test]
    fn a_vector_that_is_served_again_is_one_case() {
        let mut cases = Cases::new(1);
        for case in 0..600_u32 {
            // Thirty users with a vector each, in ten of which the latent is active, served with another list each time.
            let user = u64::from(case % 30);
            let latents: &[LatentId] = if user < 10 { &[LatentId(0)] } else { &[] };
            assert!(cases.push(user, vec![case], latents, &[1.0 + user as f32][..latents.len()]));
        }
        let sample = draw(&cases, 0, &[], 7);
        assert_eq!((sample.positive.len(), sample.random.len()), (10, 20));
        let half = draw(&cases.only(|user| user % 2 == 0, |_| true), 0, &[], 7);
        assert_eq!((half.positive.len(), half.random.len()), (5, 10));
    }

    #[test]
    fn negatives_are_inactive_and_the_draw_is_the_seeds() {
        let cases = cases();
        let sample = draw(&cases, 0, &[1], 7);
        assert!(sample.random.iter().chain(&sample.nearest).all(|case| !cases.active(0).iter().any(|(active, _)| active == case)));
        assert_eq!(sample, draw(&cases, 0, &[1], 7));
        assert_ne!(sample.random, draw(&cases, 0, &[1], 8).random);
    }
}
