//! Names of positions inside an SAE, as types that cannot be swapped.

use serde::{Deserialize, Serialize};

/// Position of a latent in the SAE's dictionary: `0..d_sae`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LatentId(pub u32);

impl LatentId {
    /// The position as an index into per-latent arrays.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for LatentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "latent {}", self.0)
    }
}
