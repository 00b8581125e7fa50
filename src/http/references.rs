//! References through the running instance: fitted to its own windows, stored by the judge, who owns the store.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::action_routes::authorise;
use crate::http::actions::{ActionBody, ActionError};
use crate::http::error::ApiError;
use crate::http::state::HttpState;

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

/// Fits and stores, or approves; called on a thread that may block. Answers what the command prints.
pub type ReferenceSender = Arc<dyn Fn(ReferenceRequest) -> Result<Value, ActionError> + Send + Sync>;

/// `POST /api/v1/references`.
pub(super) async fn build(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: Result<Json<BuildBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    authorise(&state, &headers)?;
    let Json(body) = body?;
    send(&state, ReferenceRequest::Build(body)).await
}

/// `POST /api/v1/references/{name}/approve`.
pub(super) async fn approve(
    State(state): State<Arc<HttpState>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Json<ActionBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    authorise(&state, &headers)?;
    let Json(body) = body?;
    if body.who.trim().is_empty() || body.why.trim().is_empty() || body.until.is_some() {
        return Err(ApiError::bad_request("an approval says who approves and why, and nothing else"));
    }
    let at_ms = state.clock.now_ms();
    send(&state, ReferenceRequest::Approve { name, who: body.who, why: body.why, at_ms }).await
}

async fn send(state: &Arc<HttpState>, request: ReferenceRequest) -> Result<Json<Value>, ApiError> {
    let references = Arc::clone(&state.references);
    let answer = tokio::task::spawn_blocking(move || references(request)).await;
    Ok(Json(answer.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??))
}
