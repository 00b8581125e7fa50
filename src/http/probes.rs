//! `/metrics` and the three probes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Content type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics`, gzip where the client takes it. On a blocking thread: the first scrape of a snapshot
/// writes and compresses all of it.
pub(super) async fn metrics(State(state): State<Arc<HttpState>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let gzip = accepts_gzip(&headers);
    let now_ms = state.clock.now_ms();
    let body = tokio::task::spawn_blocking(move || state.exposition.render(now_ms, gzip)).await;
    let body = body.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    let mut response = ([(header::CONTENT_TYPE, TEXT_FORMAT), (header::VARY, "accept-encoding")], body).into_response();
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// `/livez`: the process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `/readyz`: group joined, model loaded, state writable; else 503 and why not, a line each.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> (StatusCode, String) {
    let live = state.live.load();
    if live.not_ready.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, live.not_ready.iter().map(|(gate, why)| format!("{gate}: {why}\n")).collect())
}

/// `/startupz`: was ready once.
pub(super) async fn started(State(state): State<Arc<HttpState>>) -> (StatusCode, String) {
    let live = state.live.load();
    if live.started {
        return (StatusCode::OK, "ok\n".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, live.not_ready.iter().map(|(gate, why)| format!("{gate}: {why}\n")).collect())
}

/// Whether a coding list names gzip without `q=0`.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let listed = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    listed.map(str::trim).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}
