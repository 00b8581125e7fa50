//! Groups of latents that mean alike or fire together: average linkage over one similarity.
//!
//! Two latents are alike by the cosine of their decoder rows (they add the same to the vector) or by how
//! often they are active together (`n_ab / sqrt(n_a n_b)`); the larger of the two counts, because an SAE
//! splits a concept either way: into rows that look alike and never meet, or into parts that always do.
//! Average linkage, not single: one chance pair must not chain two families together.

use std::collections::BTreeMap;

use ndarray::Array2;

use crate::workshop::label::cases::Cases;
use crate::workshop::verify::nearest::unit_rows;

/// Levels of the grouping.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Grouping {
    /// Least mean similarity within a family. Default 0.5: lower merges neighbours that share a genre,
    /// higher leaves the halves of a split latent apart.
    pub least: f32,
    /// Least number of members. Default 2.
    pub min_members: usize,
    /// Most members. Default 64: a family of everything is followed like everything.
    pub max_members: usize,
    /// Least cases of a member. Default 10.
    pub min_cases: usize,
}

impl Default for Grouping {
    fn default() -> Self {
        Self { least: 0.5, min_members: 2, max_members: 64, min_cases: 10 }
    }
}

/// Similarity `[n, n]` of the latents in `of`: the larger of decoder cosine and co-activation, at least 0.
#[must_use]
pub fn similarity(w_dec: &Array2<f32>, cases: &Cases, of: &[usize]) -> Array2<f32> {
    let unit = unit_rows(&w_dec.select(ndarray::Axis(0), of));
    let mut similarity = unit.dot(&unit.t());
    let together = together(cases, of);
    for ((i, j), value) in similarity.indexed_iter_mut() {
        let (a, b) = (cases.active(of[i]).len() as f64, cases.active(of[j]).len() as f64);
        let meet = if a > 0.0 && b > 0.0 { f64::from(together[[i, j]]) / (a * b).sqrt() } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, reason = "a share, rounded to f32")]
        let meet = meet as f32;
        *value = value.max(meet).max(0.0);
    }
    similarity
}

/// In how many cases each pair is active together.
fn together(cases: &Cases, of: &[usize]) -> Array2<u32> {
    let mut by_case: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, latent) in of.iter().enumerate() {
        cases.active(*latent).iter().for_each(|(case, _)| by_case.entry(*case).or_default().push(at));
    }
    let mut together = Array2::zeros((of.len(), of.len()));
    for active in by_case.values() {
        for (n, a) in active.iter().enumerate() {
            for b in &active[n + 1..] {
                together[[*a, *b]] += 1;
                together[[*b, *a]] += 1;
            }
        }
    }
    together
}

/// Families of latents, each ascending, those of the smallest member first.
#[must_use]
pub fn group(w_dec: &Array2<f32>, cases: &Cases, grouping: &Grouping) -> Vec<Vec<usize>> {
    let of: Vec<usize> = (0..cases.n_latents()).filter(|latent| cases.active(*latent).len() >= grouping.min_cases).collect();
    let similarity = similarity(w_dec, cases, &of);
    let mut families: Vec<Vec<usize>> = linked(&similarity, grouping)
        .into_iter()
        .filter(|members| members.len() >= grouping.min_members)
        .map(|members| members.into_iter().map(|at| of[at]).collect::<Vec<_>>())
        .collect();
    families.iter_mut().for_each(|family| family.sort_unstable());
    families.sort();
    families
}

/// Average linkage: the most similar two clusters are merged while their mean similarity reaches `least`
/// and the result is not too large. Each cluster keeps its nearest, so that a merge costs one row.
fn linked(similarity: &Array2<f32>, grouping: &Grouping) -> Vec<Vec<usize>> {
    let n = similarity.nrows();
    let mut mean = similarity.clone();
    let mut members: Vec<Vec<usize>> = (0..n).map(|at| vec![at]).collect();
    let mut alive = vec![true; n];
    let nearest = |mean: &Array2<f32>, alive: &[bool], members: &[Vec<usize>], a: usize| {
        let fits = |b: &usize| *b != a && alive[*b] && members[a].len() + members[*b].len() <= grouping.max_members;
        (0..n).filter(fits).map(|b| (mean[[a, b]], b)).max_by(|x, y| x.0.total_cmp(&y.0).then(y.1.cmp(&x.1)))
    };
    let mut best: Vec<Option<(f32, usize)>> = (0..n).map(|a| nearest(&mean, &alive, &members, a)).collect();
    loop {
        let next = (0..n)
            .filter(|a| alive[*a])
            .filter_map(|a| best[a].map(|(value, b)| (value, a, b)))
            .max_by(|x, y| x.0.total_cmp(&y.0).then(y.1.cmp(&x.1)));
        let Some((value, a, b)) = next.filter(|(value, ..)| *value >= grouping.least) else { break };
        debug_assert!(alive[b] && value <= 1.001);
        let (n_a, n_b) = (members[a].len() as f32, members[b].len() as f32);
        for c in 0..n {
            let merged = (n_a * mean[[a, c]] + n_b * mean[[b, c]]) / (n_a + n_b);
            mean[[a, c]] = merged;
            mean[[c, a]] = merged;
        }
        alive[b] = false;
        let moved = std::mem::take(&mut members[b]);
        members[a].extend(moved);
        // Who had either as its nearest looks again; for all others the merged mean is no nearer than before.
        for c in 0..n {
            if alive[c] && (c == a || best[c].is_some_and(|(_, near)| near == a || near == b)) {
                best[c] = nearest(&mean, &alive, &members, c);
            }
        }
    }
    members.into_iter().zip(alive).filter(|(_, alive)| *alive).map(|(members, _)| members).collect()
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::sae::latent::LatentId;

    #[test]
    fn latents_that_look_alike_or_always_meet_are_one_family() {
        // 0 and 1 share a direction, 2 and 3 are always active together, 4 is alone.
        let w = array![[1.0, 0.0, 0.0, 0.0], [0.9, 0.1, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let mut cases = Cases::new(5);
        for case in 0..80_u32 {
            let latents: &[LatentId] = match case % 4 {
                0 => &[LatentId(0)],
                1 => &[LatentId(1)],
                2 => &[LatentId(2), LatentId(3)],
                _ => &[LatentId(4)],
            };
            cases.push(u64::from(case), vec![case], latents, &[1.0, 1.0][..latents.len()]);
        }
        assert_eq!(group(&w, &cases, &Grouping::default()), [vec![0, 1], vec![2, 3]]);
        let strict = Grouping { least: 0.999, ..Grouping::default() };
        assert_eq!(group(&w, &cases, &strict), [vec![2, 3]]);
    }

    /// The twin: merge the best pair of clusters by recomputing every mean from single latents.
    fn naive(similarity: &Array2<f32>, grouping: &Grouping) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = (0..similarity.nrows()).map(|at| vec![at]).collect();
        loop {
            let mean = |a: &[usize], b: &[usize]| {
                a.iter().flat_map(|i| b.iter().map(move |j| f64::from(similarity[[*i, *j]]))).sum::<f64>() / (a.len() * b.len()) as f64
            };
            let pairs = (0..clusters.len()).flat_map(|a| (a + 1..clusters.len()).map(move |b| (a, b)));
            let fits = |(a, b): &(usize, usize)| clusters[*a].len() + clusters[*b].len() <= grouping.max_members;
            let best = pairs.filter(fits).map(|(a, b)| (mean(&clusters[a], &clusters[b]), a, b)).max_by(|x, y| x.0.total_cmp(&y.0));
            let Some((_, a, b)) = best.filter(|(value, ..)| *value >= f64::from(grouping.least)) else { break };
            let moved = clusters.remove(b);
            clusters[a].extend(moved);
        }
        clusters
    }

    #[test]
    fn fast_linkage_equals_the_obvious_one() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for max_members in [5, 64] {
            let n = 24;
            let mut similarity = Array2::from_shape_simple_fn((n, n), || rng.random_range(0.0..1.0_f32));
            similarity = (&similarity + &similarity.t()) / 2.0;
            let grouping = Grouping { least: 0.45, max_members, ..Grouping::default() };
            let sorted = |mut clusters: Vec<Vec<usize>>| {
                clusters.iter_mut().for_each(|cluster| cluster.sort_unstable());
                clusters.sort();
                clusters
            };
            assert_eq!(sorted(linked(&similarity, &grouping)), sorted(naive(&similarity, &grouping)));
        }
    }
}
