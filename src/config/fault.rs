//! What is wrong with a configuration, one sentence a fault, so that all can be mended at once.

use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Dotted key, e.g. `kafka.topics`.
    pub key: String,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl Fault {
    /// A fault at `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or an environment variable's name is no key.
    #[error("cannot read the configuration {}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// Keys that are unknown, values of the wrong kind, and settings that do not go together.
    #[error("{} in the configuration {}:{}", count(faults.len()), path.display(), bullets(faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// Every fault found, in the order of the keys.
        faults: Vec<Fault>,
    },
}

impl ConfigError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Syntax { .. } => "syntax",
            Self::Faults { .. } => "faults",
        }
    }

    /// The single faults; one for the whole file where it could not be read.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Read { path, source } => vec![Fault::new(path.display().to_string(), source.to_string())],
            Self::Syntax { path, message } => vec![Fault::new(path.display().to_string(), message.clone())],
            Self::Faults { faults, .. } => faults.clone(),
        }
    }
}

fn count(n_faults: usize) -> String {
    if n_faults == 1 { "1 fault".to_owned() } else { format!("{n_faults} faults") }
}

fn bullets(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  - {fault}")).collect()
}
