//! The POST routes: what changes something needs the token, and is handed to the judge.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};

use crate::drift::alert::{ActionKind, Alert, AlertAction, AlertListing, utc_text};
use crate::http::actions::{ActionBody, ActionRequest, TestBody, Token};
use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::http::views;

/// Longest time the test alert is shown.
const MAX_TEST_MS: i64 = 24 * 3_600_000;

/// `POST /api/v1/alerts/{id}/acknowledge|accept|mute`.
pub(super) async fn act(
    State(state): State<Arc<HttpState>>,
    axum::extract::Path((id, action)): axum::extract::Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Json<ActionBody>, JsonRejection>,
) -> Result<Json<AlertListing>, ApiError> {
    authorise(&state, &headers)?;
    let action = match action.as_str() {
        "acknowledge" => ActionKind::Acknowledge,
        "accept" => ActionKind::Accept,
        "mute" => ActionKind::Mute,
        other => return Err(ApiError::not_found(format!("expected acknowledge, accept or mute, found {other:?}"))),
    };
    let Json(body) = body?;
    let alert = perform(&state, &id, action, body).await?;
    Ok(Json(views::alert(&state.snapshots.load(), &alert)))
}

/// Has the judge do it: what the API and the page's form have in common, once the token was shown.
pub(super) async fn perform(state: &Arc<HttpState>, id: &str, action: ActionKind, body: ActionBody) -> Result<Alert, ApiError> {
    let id: i64 = id.parse().map_err(|_| ApiError::bad_request(format!("expected the number of an alert, found {id:?}")))?;
    let at_ms = state.clock.now_ms();
    if body.until.is_some_and(|until| until <= at_ms || action != ActionKind::Mute) {
        return Err(ApiError::bad_request("until belongs to mute, and lies in the future"));
    }
    if body.until.is_none() && action == ActionKind::Mute {
        return Err(ApiError::bad_request("a mute needs its end: \"until\": an RFC 3339 time"));
    }
    let action = AlertAction { action, who: body.who, why: body.why, at_ms, until_ms: body.until };
    let done = send(state, ActionRequest::Alert { id, action }).await?;
    done.ok_or_else(|| ApiError::not_found(format!("no alert {id}")))
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

pub(super) fn authorise(state: &HttpState, headers: &HeaderMap) -> Result<(), ApiError> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    holds_token(state, shown)
}

/// The body of a deed that asks for nothing but who does it and why; `what` is its name in the refusal.
pub(super) fn signed(what: &str, body: ActionBody) -> Result<(String, String), ApiError> {
    if body.who.trim().is_empty() || body.why.trim().is_empty() || body.until.is_some() {
        return Err(ApiError::bad_request(format!("{what} says who asks for it and why, and nothing else")));
    }
    Ok((body.who, body.why))
}

/// Whether what was shown is this instance's token.
pub(super) fn holds_token(state: &HttpState, shown: Option<&str>) -> Result<(), ApiError> {
    let Some(expected) = &state.token else {
        let message = "actions are off: put a token into a file and set [http] token_file";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "no_token_configured", message));
    };
    if shown.and_then(Token::of).as_ref() == Some(expected) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "expected the header `Authorization: Bearer TOKEN`, or in a form the token, with the content of this instance's [http] token_file",
    ))
}
