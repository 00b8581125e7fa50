//! Latents that mean alike: decoder rows by cosine, within one SAE and between two.

use ndarray::{Array2, Axis};

/// Rows of norm 1; a row of zeros stays one.
#[must_use]
pub fn unit_rows(matrix: &Array2<f32>) -> Array2<f32> {
    let mut unit = matrix.clone();
    for mut row in unit.rows_mut() {
        let norm = row.dot(&row).sqrt();
        if norm > 0.0 {
            row /= norm;
        }
    }
    unit
}

/// For each latent the `n` others of largest decoder cosine among those `alive`, nearest first.
#[must_use]
pub fn nearest_latents(w_dec: &Array2<f32>, alive: &[bool], n: usize) -> Vec<Vec<usize>> {
    let unit = unit_rows(w_dec);
    let nearest = |latent: usize| {
        let cosines = unit.dot(&unit.row(latent));
        let mut others: Vec<usize> = (0..unit.nrows()).filter(|other| *other != latent && alive.get(*other) == Some(&true)).collect();
        let closer = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
        if others.len() > n && n > 0 {
            others.select_nth_unstable_by(n - 1, closer);
        }
        others.truncate(n);
        others.sort_by(closer);
        others
    };
    (0..unit.nrows()).map(nearest).collect()
}

/// Pairs latents of two SAEs one to one, the largest cosine first: by latent of `ours` its partner and
/// their cosine. Pairs below `least` are not made.
///
/// Greedy rather than optimal: the pairs that matter, near 1, are the same, at n^2 log n instead of n^3.
#[must_use]
pub fn match_latents(ours: &Array2<f32>, theirs: &Array2<f32>, least: f32) -> Vec<Option<(usize, f32)>> {
    let (ours, theirs) = (unit_rows(ours), unit_rows(theirs));
    let mut partner = vec![None; ours.nrows()];
    if ours.ncols() != theirs.ncols() {
        return partner;
    }
    let cosines = ours.dot(&theirs.t());
    let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
    for (i, row) in cosines.axis_iter(Axis(0)).enumerate() {
        pairs.extend(row.iter().enumerate().filter(|(_, cosine)| **cosine >= least).map(|(j, cosine)| (*cosine, i, j)));
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut taken = vec![false; theirs.nrows()];
    for (cosine, i, j) in pairs {
        if partner[i].is_none() && !taken[j] {
            partner[i] = Some((j, cosine));
            taken[j] = true;
        }
    }
    partner
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_nearest_are_alive_others_in_order() {
        let w = array![[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.7, 0.7], [-1.0, 0.0]];
        let nearest = nearest_latents(&w, &[true, true, true, true, false], 2);
        assert_eq!(nearest[0], [1, 3]);
        assert_eq!(nearest[4], [2, 3], "a dead latent has neighbours, but is none");
    }

    #[test]
    fn a_shuffled_and_scaled_copy_is_matched_row_by_row() {
        let w = array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.2], [0.3, 0.1, 1.0]];
        let copy = array![[0.6, 0.2, 2.0], [3.0, 0.0, 0.0], [0.0, 0.5, 0.1]];
        let pairs = match_latents(&w, &copy, 0.5);
        assert_eq!(pairs.iter().map(|pair| pair.unwrap().0).collect::<Vec<_>>(), [1, 2, 0]);
        assert!(pairs.iter().all(|pair| pair.unwrap().1 > 0.999));
        assert_eq!(match_latents(&w, &array![[-1.0, 0.0, 0.0]], 0.5), [None, None, None]);
        assert_eq!(match_latents(&w, &array![[1.0, 0.0]], 0.5), [None, None, None], "another width");
    }
}
