//! What an operator can ask for, the token that allows it, and how it reaches the judge, who owns the store.

use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::drift::alert::{Alert, AlertAction, rfc3339_option};
use crate::http::error::ApiError;
use crate::store::StoreError;

/// What is asked of the judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionRequest {
    /// An action on an alert: `Store::act`, a new snapshot, `Some(alert)` back.
    Alert {
        /// Number of the alert.
        id: i64,
        /// What, who, why, when.
        action: AlertAction,
    },
    /// Put the test alert on the record: `Store::record_test_alert`, `None` back. It is shown by `Live`.
    Test {
        /// By whom.
        who: String,
        /// Why.
        why: String,
        /// Until when it is shown, ms since 1970 UTC.
        until_ms: i64,
        /// When it was asked for, ms since 1970 UTC.
        at_ms: i64,
    },
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The judge's queue is full or it is stopping.
    #[error("the judge is busy or stopping: try again")]
    Busy,
    /// What was asked cannot be done as asked.
    #[error("{0}")]
    Refused(String),
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ActionError> for ApiError {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
            ActionError::Refused(message) => Self::new(StatusCode::CONFLICT, "refused", message),
            ActionError::Store(error) => error.into(),
        }
    }
}

/// Sends to the judge and waits for its answer; called on a thread that may block.
pub type ActionSender = Arc<dyn Fn(ActionRequest) -> Result<Option<Alert>, ActionError> + Send + Sync>;

/// The bearer token, kept as its hash: it cannot be printed, and comparing takes the same time whatever was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// The token in `text`, white space around it left out; `None` when nothing is left.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Sha256::digest(text).into()))
    }

    /// The token in a file.
    ///
    /// # Errors
    /// The file cannot be read or is empty.
    pub fn from_file(path: &Path) -> std::io::Result<Self> {
        Self::of(&std::fs::read_to_string(path)?)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "the token file is empty"))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Body of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// Who acts.
    pub who: String,
    /// Why.
    pub why: String,
    /// End of a mute.
    #[serde(default, with = "rfc3339_option", skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// Body of a test alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestBody {
    /// Who asks for it.
    pub who: String,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// How many minutes it is shown; 0 takes it back.
    pub minutes: u32,
}

/// Which windows a reference is made of. Times are ms since 1970 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildBody {
    /// Its name; references are immutable.
    pub name: String,
    /// Model version; absent: the only one.
    #[serde(default)]
    pub model_version: Option<String>,
    /// First window start; absent: all windows.
    #[serde(default)]
    pub from: Option<i64>,
    /// End of the span; absent: all windows.
    #[serde(default)]
    pub to: Option<i64>,
    /// Spans `[from, to]` to leave out.
    #[serde(default)]
    pub exclude: Vec<[i64; 2]>,
}

/// What is asked about references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceRequest {
    /// Fit one to the windows of the store, and keep it.
    Build(BuildBody),
    /// Let one be used.
    Approve {
        /// Its name.
        name: String,
        /// Who approves.
        who: String,
        /// Why.
        why: String,
        /// When, ms since 1970 UTC.
        at_ms: i64,
    },
}

/// Reads the configuration and its bundles again: has them taken up if they are sound, else says in words what is not.
/// Called on a thread that may block.
pub type ReloadSender = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Fits and stores, or approves; called on a thread that may block. Answers what the command prints.
pub type ReferenceSender = Arc<dyn Fn(ReferenceRequest) -> Result<Value, ActionError> + Send + Sync>;
