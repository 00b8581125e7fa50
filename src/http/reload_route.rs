//! The POST route that does what SIGHUP does, for who reaches the instance by HTTP alone, and tells what came of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::http::action_routes::{authorise, signed};
use crate::http::actions::ActionBody;
use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// `POST /api/v1/reload`: answered once configuration and bundles are checked, before they are taken up.
pub(super) async fn reload(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: Result<Json<ActionBody>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    authorise(&state, &headers)?;
    let (who, why) = signed("a reload", body?.0)?;
    let Some(reload) = state.reload.clone() else {
        return Err(ApiError::new(StatusCode::CONFLICT, "no_file", "this instance was not started from a configuration file"));
    };
    tracing::info!(who, why, "reload asked for");
    let answer = tokio::task::spawn_blocking(move || reload()).await;
    let checked = answer.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    checked.map_err(|why| ApiError::new(StatusCode::CONFLICT, "reload_refused", why))?;
    Ok(Json(serde_json::json!({"reload": "configuration and bundles are sound, and are taken up now"})))
}
