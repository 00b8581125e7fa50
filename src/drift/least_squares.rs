//! Least squares of a few columns by twice-repeated Gram-Schmidt.
//!
//! Own code, 60 lines, because a linear-algebra crate would cost a minute of compile time for a
//! matrix of nine columns. Normal equations were rejected: at expected counts of 300 they lose half
//! of the digits. "Twice is enough" (Giraud, Langou, Rozloznik 2005) keeps Q orthogonal to rounding.

/// A factored design: `X = Q U`, Q with orthonormal columns, U upper triangular.
#[derive(Clone, Debug)]
pub struct LeastSquares {
    /// Orthonormal columns, each `[rows]`.
    q: Vec<Vec<f64>>,
    /// `u[k][i]`, `i <= k`: coefficients of kept column `k`.
    u: Vec<Vec<f64>>,
    /// Which columns of the design were kept; a column that the ones before it give is left out
    /// and its coefficient is 0 (a reference without a weekend has a weekend column of zeros).
    kept: Vec<usize>,
    n_columns: usize,
}

impl LeastSquares {
    /// Factors a design given by columns, each `[rows]`.
    #[must_use]
    pub fn new(columns: &[Vec<f64>]) -> Self {
        let mut this = Self { q: Vec::new(), u: Vec::new(), kept: Vec::new(), n_columns: columns.len() };
        for (index, column) in columns.iter().enumerate() {
            let size = norm(column);
            let mut rest = column.clone();
            let mut coefficients = vec![0.0; this.q.len()];
            for _ in 0..2 {
                for (q, coefficient) in this.q.iter().zip(&mut coefficients) {
                    let along = dot(q, &rest);
                    *coefficient += along;
                    rest.iter_mut().zip(q).for_each(|(r, q)| *r -= along * q);
                }
            }
            let left = norm(&rest);
            if left <= 1e-10 * size || left == 0.0 {
                continue;
            }
            rest.iter_mut().for_each(|r| *r /= left);
            coefficients.push(left);
            this.q.push(rest);
            this.u.push(coefficients);
            this.kept.push(index);
        }
        this
    }

    /// Coefficients `[columns]` that minimise `||X beta - y||^2`, `y` `[rows]`.
    #[must_use]
    pub fn solve(&self, y: &[f64]) -> Vec<f64> {
        self.coefficients(self.q.iter().map(|q| dot(q, y)).collect())
    }

    /// Columns of Q, each `[rows]`: as many as were kept.
    #[must_use]
    pub fn basis(&self) -> &[Vec<f64>] {
        &self.q
    }

    /// Coefficients `[columns]` of what has the coordinates `along` in the basis.
    #[must_use]
    pub fn coefficients(&self, mut along: Vec<f64>) -> Vec<f64> {
        for k in (0..along.len()).rev() {
            along[k] /= self.u[k][k];
            let (before, at) = along.split_at_mut(k);
            before.iter_mut().zip(&self.u[k]).for_each(|(b, u)| *b -= u * at[0]);
        }
        let mut beta = vec![0.0; self.n_columns];
        for (&index, value) in self.kept.iter().zip(along) {
            beta[index] = value;
        }
        beta
    }

    /// Mean of the hat matrix `Q Q'` on its diagonal `lag`: by how much fitting makes residuals
    /// `lag` windows apart correlate (with the opposite sign). 0 where there is no such pair.
    #[must_use]
    pub fn mean_hat(&self, lag: usize) -> f64 {
        let rows = self.q.first().map_or(0, Vec::len);
        if rows <= lag {
            return 0.0;
        }
        self.q.iter().map(|q| dot(&q[..rows - lag], &q[lag..])).sum::<f64>() / count(rows - lag)
    }
}

/// A number of windows or streams as f64; exact below 2^53.
#[must_use]
pub fn count(n: usize) -> f64 {
    n as f64
}

/// Sum of products.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_exactly_and_a_dependent_column_gets_no_weight() {
        let x: Vec<f64> = (0..7).map(f64::from).collect();
        let columns = [vec![1.0; 7], x.clone(), vec![0.0; 7], vec![2.0; 7]];
        let y: Vec<f64> = x.iter().map(|x| 3.0 - 0.5 * x).collect();
        let beta = LeastSquares::new(&columns).solve(&y);
        for (found, expected) in beta.iter().zip([3.0, -0.5, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-13, "{beta:?}");
        }
    }

    #[test]
    fn the_hat_of_a_mean_is_one_over_n() {
        let fit = LeastSquares::new(&[vec![1.0; 10]]);
        assert!((fit.mean_hat(2) - 0.1).abs() < 1e-15);
        assert_eq!(fit.mean_hat(10), 0.0);
    }
}
