//! The two forms of the screen, after the CPU's instructions, and the sizes that go with them.

use crate::encode::native::cpu::Kernel;

/// Pairs of dimensions whose products are added in 16 bits before they are shifted.
pub(super) const BLOCK_PAIRS: usize = 16;
/// Latents of a panel: two registers of sums.
pub(super) const PANEL: usize = 32;
/// Rows of a tile in pairs: ten sums, two weights and a row fill the sixteen registers of AVX2.
pub(super) const PAIR_ROWS: usize = 5;
/// Rows of a tile in quads: 24 sums, two weights and a row fit the 32 registers of AVX-512.
pub(super) const QUAD_ROWS: usize = 12;
/// Rows of any tile.
pub(super) const MOST_ROWS: usize = 12;
/// What is added to a rounded value of a row, so that it has no sign.
pub(super) const OFFSET: i16 = 64;

/// How rounded numbers are multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Two dimensions at once, sums of 16 bits: AVX2's `maddubs`.
    Pairs,
    /// Four dimensions at once, sums of 32 bits: VNNI's `dpbusd`.
    Quads,
}

impl Form {
    /// The form a kernel is fast with; any kernel computes both.
    pub(super) fn of(kernel: Kernel) -> Self {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::AvxVnni(_) | Kernel::Avx512(_) => Self::Quads,
            _ => Self::Pairs,
        }
    }

    /// Dimensions of a group.
    pub(super) fn group(self) -> usize {
        match self {
            Self::Pairs => 2,
            Self::Quads => 4,
        }
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Pairs => PAIR_ROWS,
            Self::Quads => QUAD_ROWS,
        }
    }

    /// Where a panel keeps its latent `latent`. Packing two registers of 32-bit sums into one of 16 takes four
    /// of each in turn; in this order the packed numbers come out in the latents' own.
    pub(super) fn column(self, latent: usize) -> usize {
        match self {
            Self::Pairs => latent,
            Self::Quads => latent % 8 / 4 * (PANEL / 2) + latent / 8 * 4 + latent % 4,
        }
    }
}
