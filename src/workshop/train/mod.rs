//! `recsae train`: a TopK SAE of a recommender's vectors (RecSAE, arXiv 2411.06112), without Python.
//!
//! `prepare` splits and scales the rows, `state` is what a run is between two steps, `trainer` takes a
//! step (`rows`: the engine's encoder, then only the k active latents of a row, and `asleep`, the dead ones; `latents`: gradients and
//! Adam a latent at a time), `run` is the whole with its checkpoints, `finish` makes an SAE of the state.
//! Every file up to `trainer` does no I/O and gives the same bytes on any number of threads.

pub mod adam;
pub mod asleep;
#[cfg(target_arch = "x86_64")]
mod asleep_avx512;
pub mod checkpoint;
pub mod curve;
pub mod dots;
pub mod finish;
#[cfg(target_arch = "x86_64")]
mod latent_avx512;
pub mod latents;
pub mod linear;
#[cfg(target_arch = "x86_64")]
mod linear_avx512;
mod moving;
pub mod prepare;
pub mod recipe;
#[cfg(target_arch = "x86_64")]
mod registers_avx512;
#[cfg(target_arch = "x86_64")]
mod row_avx512;
pub mod rows;
pub mod run;
pub mod state;
pub mod trainer;
