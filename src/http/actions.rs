//! What changes something: operator actions, handed to the judge, who owns the store.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::drift::alert::{ActionKind, Alert, AlertAction, AlertListing, rfc3339_option, utc_text};
use crate::http::HttpState;
use crate::http::error::ApiError;
use crate::http::views;
use crate::store::StoreError;

/// Longest time the test alert is shown.
const MAX_TEST_MS: i64 = 24 * 3_600_000;

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
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ActionError> for ApiError {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
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

/// `POST /api/v1/alerts/{id}/acknowledge|accept|mute`.
pub(super) async fn act(
    State(state): State<Arc<HttpState>>,
    axum::extract::Path((id, action)): axum::extract::Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Json<ActionBody>, JsonRejection>,
) -> Result<Json<AlertListing>, ApiError> {
    authorise(&state, &headers)?;
    let id: i64 = id.parse().map_err(|_| ApiError::bad_request(format!("expected the number of an alert, found {id:?}")))?;
    let action = match action.as_str() {
        "acknowledge" => ActionKind::Acknowledge,
        "accept" => ActionKind::Accept,
        "mute" => ActionKind::Mute,
        other => return Err(ApiError::not_found(format!("expected acknowledge, accept or mute, found {other:?}"))),
    };
    let Json(body) = body?;
    let at_ms = state.clock.now_ms();
    if body.until.is_some_and(|until| until <= at_ms || action != ActionKind::Mute) {
        return Err(ApiError::bad_request("until belongs to mute, and lies in the future"));
    }
    let action = AlertAction { action, who: body.who, why: body.why, at_ms, until_ms: body.until };
    let done = send(&state, ActionRequest::Alert { id, action }).await?;
    let alert = done.ok_or_else(|| ApiError::not_found(format!("no alert {id}")))?;
    Ok(Json(views::alert(&state.snapshots.load(), &alert)))
}

/// `POST /api/v1/alerts/test`.
pub(super) async fn test(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: Result<Json<TestBody>, JsonRejection>,
) -> Result<Json<serde_json::Value>, ApiError> {
    authorise(&state, &headers)?;
    let Json(body) = body?;
    if body.who.trim().is_empty() {
        return Err(ApiError::bad_request("a test alert needs to say who asks for it"));
    }
    let at_ms = state.clock.now_ms();
    let until_ms = at_ms + (i64::from(body.minutes) * 60_000).min(MAX_TEST_MS);
    send(&state, ActionRequest::Test { who: body.who, why: body.why, until_ms, at_ms }).await?;
    state.live.set_test_alert((until_ms > at_ms).then_some(until_ms));
    Ok(Json(serde_json::json!({"stream": crate::metrics::exposition::TEST_ALERT, "until": utc_text(until_ms)})))
}

async fn send(state: &Arc<HttpState>, request: ActionRequest) -> Result<Option<Alert>, ApiError> {
    let actions = Arc::clone(&state.actions);
    let answer = tokio::task::spawn_blocking(move || actions(request)).await;
    Ok(answer.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??)
}

fn authorise(state: &HttpState, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(expected) = &state.token else {
        let message = "actions are off: put a token into a file and set [http] token_file";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "no_token_configured", message));
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    if shown.and_then(Token::of).as_ref() == Some(expected) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "expected the header `Authorization: Bearer TOKEN` with this instance's token",
    ))
}
