//! What is tested: a stream is one number per window, of a latent, a family of latents, or a
//! pseudo-stream that says something about all records.

use serde::{Deserialize, Serialize};

use crate::sae::latent::LatentId;

/// One tested stream, as named in files, metrics and the API: `latent:123`, `family:7`, `residual_outlier`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum StreamId {
    /// A latent of the SAE.
    Latent(LatentId),
    /// A group of latents from the bundle.
    Family(u32),
    /// Records whose reconstruction error lies above the reference's 95th percentile.
    ResidualOutlier,
    /// Records with no active latent.
    DeadRecord,
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latent(latent) => write!(f, "latent:{}", latent.0),
            Self::Family(family) => write!(f, "family:{family}"),
            Self::ResidualOutlier => f.write_str("residual_outlier"),
            Self::DeadRecord => f.write_str("dead_record"),
        }
    }
}

/// The text names no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected latent:N, family:N, residual_outlier or dead_record, found {found:?}")]
pub struct UnknownStream {
    /// What stood there.
    pub found: String,
}

impl std::str::FromStr for StreamId {
    type Err = UnknownStream;

    fn from_str(text: &str) -> Result<Self, UnknownStream> {
        let unknown = || UnknownStream { found: text.to_owned() };
        match text.split_once(':') {
            Some(("latent", n)) => Ok(Self::Latent(LatentId(n.parse().map_err(|_| unknown())?))),
            Some(("family", n)) => Ok(Self::Family(n.parse().map_err(|_| unknown())?)),
            None if text == "residual_outlier" => Ok(Self::ResidualOutlier),
            None if text == "dead_record" => Ok(Self::DeadRecord),
            _ => Err(unknown()),
        }
    }
}

impl From<StreamId> for String {
    fn from(stream: StreamId) -> Self {
        stream.to_string()
    }
}

impl TryFrom<String> for StreamId {
    type Error = UnknownStream;

    fn try_from(text: String) -> Result<Self, UnknownStream> {
        text.parse()
    }
}
