//! What a user says of a checkpoint where its files do not.

use std::num::NonZeroUsize;

/// What is done to a vector before the encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalisation {
    /// Nothing.
    None,
    /// Multiplied by a factor, which is folded into the weights.
    Scale(f32),
    /// Something that whoever writes the vectors does already.
    Upstream,
}

impl std::str::FromStr for Normalisation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "upstream" => Ok(Self::Upstream),
            factor => factor.parse().map(Self::Scale).map_err(|_| format!("expected none, upstream or a factor, found {factor:?}")),
        }
    }
}

/// What the user says of a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Active latents a row.
    pub k: Option<NonZeroUsize>,
    /// Every latent above it is active.
    pub threshold: Option<f32>,
    /// Whether `b_dec` is subtracted before encoding.
    pub centring: Option<bool>,
    /// What is done before the encoder.
    pub normalisation: Option<Normalisation>,
}
