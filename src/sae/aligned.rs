//! Numbers that begin where a cache line does.
//!
//! An allocator aligns to 16 bytes. Rows of a matrix then lie across lines: a row of 256 bytes touches five of them
//! instead of four, and a load of a register's 32 or 64 bytes is two loads where it crosses the border. Rejected: a crate of
//! aligned vectors, which brings an allocator's unsafe code for what a few spare elements do.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A slice whose first element lies at the start of a cache line. Elements are numbers: their size divides a line.
#[derive(Debug, Default)]
pub struct Aligned<T> {
    room: Vec<T>,
    first: usize,
    n: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `n` times zero.
    #[must_use]
    pub fn zeros(n: usize) -> Self {
        let spare = LINE / size_of::<T>();
        let room = vec![T::default(); n + spare];
        // Where it cannot be aligned it works as well, only slower.
        let first = room.as_ptr().align_offset(LINE).min(spare);
        Self { room, first, n }
    }

    /// Makes room for `n` elements, whatever they are, unless that is what it has.
    pub fn reserve_exactly(&mut self, n: usize) {
        if self.n != n {
            *self = Self::zeros(n);
        }
    }
}

impl<T: Copy + Default> From<&[T]> for Aligned<T> {
    fn from(values: &[T]) -> Self {
        let mut aligned = Self::zeros(values.len());
        aligned.copy_from_slice(values);
        aligned
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        &self.room[self.first..self.first + self.n]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.room[self.first..self.first + self.n]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_line_and_a_copy_of_it_too() {
        for n in [0, 1, 63, 64, 1000] {
            let values: Vec<i16> = (0..n).collect();
            let mut aligned = Aligned::from(values.as_slice());
            let copy = aligned.clone();
            assert_eq!((&*aligned, &*copy), (&*values, &*values));
            assert!([&aligned, &copy].iter().all(|it| it.as_ptr().addr() % LINE == 0));
            aligned.reserve_exactly(7);
            assert_eq!((aligned.len(), aligned.as_ptr().addr() % LINE), (7, 0));
        }
    }
}
