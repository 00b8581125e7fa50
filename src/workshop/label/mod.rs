//! Naming latents without a language model: which tags of the items stand out where a latent is active.
//!
//! The flow: cases (what was served, which latents were active) and tags (from an items table) →
//! characteristic items of each latent → enrichment by items and by cases, corrected over all pairs →
//! one name or none. Tags dealt anew among the items show how many names chance would give.

pub mod cases;
pub mod characteristic;
pub mod false_discovery;
pub mod hypergeometric;
pub mod naming;
pub mod presence;
pub mod ranking;
pub mod tags;
