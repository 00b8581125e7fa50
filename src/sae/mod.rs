//! The sparse autoencoder as mathematics: no I/O, no clock, no logging; same input, same bytes.

pub mod activation;
pub mod aligned;
pub mod concept;
pub mod embedding;
pub mod hold_out;
pub mod latent;
pub mod nearest;
pub mod reconstruction;
#[cfg(target_arch = "x86_64")]
mod reconstruction_avx512;
mod reconstruction_row;
pub mod topk;
#[cfg(target_arch = "x86_64")]
mod topk_avx2;
pub(crate) mod topk_bound;
mod topk_candidates;
pub mod weights;
pub mod wide;
