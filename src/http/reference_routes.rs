//! The POST routes of references: fitted to the instance's own windows, stored by the judge, who owns the store.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::http::action_routes::{authorise, signed};
use crate::http::actions::{ActionBody, BuildBody, ReferenceRequest};
use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// `POST /api/v1/references`.
pub(super) async fn build(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: Result<Json<BuildBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    authorise(&state, &headers)?;
    let Json(body) = body?;
    if body.name.trim().is_empty() {
        return Err(ApiError::bad_request("a reference needs a name, found an empty text"));
    }
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
    let (who, why) = signed("an approval", body?.0)?;
    let at_ms = state.clock.now_ms();
    send(&state, ReferenceRequest::Approve { name, who, why, at_ms }).await
}

async fn send(state: &Arc<HttpState>, request: ReferenceRequest) -> Result<Json<Value>, ApiError> {
    let references = Arc::clone(&state.references);
    let answer = tokio::task::spawn_blocking(move || references(request)).await;
    Ok(Json(answer.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??))
}
