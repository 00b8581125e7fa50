//! Which rows of a windows file were there: a stream told twice, or in parts and as one, would count twice.

use crate::drift::counts::N_BUCKETS;

/// What a row's stream column names.
#[derive(Clone, Copy)]
pub(super) enum Row {
    Latent(usize),
    ResidualOutlier,
    DeadRecord,
    Entities,
    Records,
    KishExposure,
    /// Families are summed from their members, as the configuration names them.
    Ignored,
}

/// Rows of a segment of a window that were there: a bit for each stream, bucket by bucket and without one.
#[derive(Default)]
pub(super) struct Seen(Vec<u64>);

impl Seen {
    const BITS: usize = N_BUCKETS + 1;

    fn first_bit(row: Row) -> Option<usize> {
        let stream = match row {
            Row::Latent(latent) => 5 + latent,
            Row::ResidualOutlier => 0,
            Row::DeadRecord => 1,
            Row::Entities => 2,
            Row::Records => 3,
            Row::KishExposure => 4,
            Row::Ignored => return None,
        };
        Some(stream * Self::BITS)
    }

    fn has(&self, bit: usize) -> bool {
        self.0.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Whether a stream was told bucket by bucket.
    pub(super) fn is_in_parts(&self, row: Row) -> bool {
        Self::first_bit(row).is_some_and(|first| (first + 1..first + Self::BITS).any(|bit| self.has(bit)))
    }

    /// Notes a row.
    ///
    /// # Errors
    /// It was there, or the stream is told both in parts and as one: either would count twice. What was expected instead.
    pub(super) fn see(&mut self, row: Row, bucket: Option<usize>) -> Result<(), &'static str> {
        let Some(first) = Self::first_bit(row) else { return Ok(()) };
        let at = first + bucket.map_or(0, |bucket| bucket + 1);
        if self.has(at) {
            return Err("each stream once in a segment and bucket of a window");
        }
        let others = if bucket.is_some() { first..first + 1 } else { first + 1..first + Self::BITS };
        if others.into_iter().any(|bit| self.has(bit)) {
            return Err("a stream either by session-length bucket or in one row without");
        }
        grow(&mut self.0, at / 64 + 1);
        self.0[at / 64] |= 1 << (at % 64);
        Ok(())
    }
}

/// Makes `values` at least `len` long.
pub(super) fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}
