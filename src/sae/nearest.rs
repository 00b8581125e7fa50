//! Latents that mean alike: of one latent, the others by the cosine of their decoder rows.

use ndarray::Array2;

use crate::sae::latent::LatentId;

/// The `n` other latents of largest cosine to `latent`, nearest first, with it. `w_dec` is `[d_sae, d_in]`. A row of
/// zeros (a dead latent) is nobody's neighbour; a latent outside the dictionary has none. One pass over `w_dec`.
#[must_use]
pub fn nearest(w_dec: &Array2<f32>, latent: LatentId, n: usize) -> Vec<(LatentId, f32)> {
    if latent.index() >= w_dec.nrows() {
        return Vec::new();
    }
    let own = w_dec.row(latent.index());
    let own_norm = own.dot(&own).sqrt();
    let cosine = |row: ndarray::ArrayView1<'_, f32>| {
        let norms = own_norm * row.dot(&row).sqrt();
        (norms > 0.0).then(|| row.dot(&own) / norms)
    };
    let others = (0..).map(LatentId).zip(w_dec.rows()).filter(|(other, _)| *other != latent);
    let mut found: Vec<(LatentId, f32)> = others.filter_map(|(other, row)| Some((other, cosine(row)?))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.truncate(n);
    found
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_nearest_are_others_in_order_and_never_dead() {
        let w = array![[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.7, 0.7], [0.0, 0.0]];
        let found = nearest(&w, LatentId(0), 2);
        assert_eq!(found.iter().map(|(latent, _)| latent.0).collect::<Vec<_>>(), [1, 3]);
        assert!((found[0].1 - 0.9 / 0.82_f32.sqrt()).abs() < 1e-6);
        assert_eq!(nearest(&w, LatentId(0), 9).len(), 3);
        assert!(nearest(&w, LatentId(5), 2).is_empty() && nearest(&w, LatentId(4), 2).is_empty());
    }
}
