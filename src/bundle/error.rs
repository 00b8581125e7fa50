//! Why a bundle cannot be built, opened or trusted.

use std::path::{Path, PathBuf};

use crate::bundle::onnx::OnnxError;

/// A fault of a bundle or of what it is built from. Each says what was expected, found, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The manifest is not one.
    #[error("{}: not a manifest: {message}; build the bundle again with `recsae bundle build`", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// The manifest is of a version this program does not know.
    #[error("{}: manifest of format version {found}, this recsae reads version {supported}; use the recsae that wrote it, or build the bundle again", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Version found.
        found: String,
        /// Version read.
        supported: u32,
    },
    /// A file is not the one the manifest names.
    #[error("{}: sha256 is {found}, the manifest says {expected}; the file was changed or damaged: build the bundle again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash in the manifest.
        expected: String,
        /// Hash of the file.
        found: String,
    },
    /// The ONNX graph is refused.
    #[error("{}: {source}", path.display())]
    Onnx {
        /// The graph's file.
        path: PathBuf,
        /// Why.
        source: OnnxError,
    },
    /// A part (weights, golden rows, concepts) cannot be used.
    #[error("{}: {message}", path.display())]
    Part {
        /// The part's file.
        path: PathBuf,
        /// What was expected, found, and what to do.
        message: String,
    },
    /// Parts that do not belong together.
    #[error("{message}")]
    Mismatch {
        /// What was expected, found, and what to do.
        message: String,
    },
    /// An engine failed on the graph while the bundle was built.
    #[error("the graph cannot be run: {message}")]
    Engine {
        /// Its words.
        message: String,
    },
}

impl BundleError {
    /// Stable name of the kind of fault.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Manifest { .. } => "manifest",
            Self::Version { .. } => "version",
            Self::Hash { .. } => "hash",
            Self::Onnx { .. } => "onnx",
            Self::Part { .. } => "part",
            Self::Mismatch { .. } => "mismatch",
            Self::Engine { .. } => "engine",
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn part(path: &Path, message: impl Into<String>) -> Self {
        Self::Part { path: path.to_owned(), message: message.into() }
    }
}
