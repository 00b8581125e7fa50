//! The JSON answers under `/api/v1`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::drift::alert::AlertListing;
use crate::drift::report::StreamState;
use crate::drift::stream::StreamId;
use crate::http::alert_view::AlertDetail;
use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::http::views::{self, ConceptFilter, ConceptView, StatusView};
use crate::snapshot::RatePoint;
use crate::store::reader::{WindowQuery, WindowSummary};

/// Concepts and windows listed when no limit is asked for.
const DEFAULT_LIMIT: usize = 1000;
/// Most that are listed: 24 segments of 16,384 latents would be 100 MB of JSON.
const MAX_LIMIT: usize = 10_000;

/// Query of `/api/v1/concepts`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConceptsQuery {
    segment: Option<String>,
    model_version: Option<String>,
    state: Option<StreamState>,
    limit: Option<usize>,
}

/// Query of `/api/v1/windows`. Times are RFC 3339 or ms since 1970.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowsQuery {
    from: Option<String>,
    to: Option<String>,
    segment: Option<String>,
    model_version: Option<String>,
    limit: Option<usize>,
}

/// One stream in all its segments: `/api/v1/concepts/{stream}`.
#[derive(Debug, Serialize)]
pub(super) struct ConceptDetail {
    #[serde(flatten)]
    now: ConceptView,
    history: Vec<RatePoint>,
}

/// `/api/v1/status`.
pub(super) async fn status(State(state): State<Arc<HttpState>>) -> Json<StatusView> {
    Json(views::status(&state.snapshots.load(), &state.live.load()))
}

/// `/api/v1/concepts`.
pub(super) async fn concepts(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<ConceptsQuery>, QueryRejection>,
) -> Result<Json<Vec<ConceptView>>, ApiError> {
    let Query(query) = query?;
    let filter = ConceptFilter { segment: query.segment, model_version: query.model_version, state: query.state, stream: None };
    Ok(Json(views::concepts(&state.snapshots.load(), &filter, limit(query.limit))))
}

/// `/api/v1/concepts/{stream}`.
pub(super) async fn concept(State(state): State<Arc<HttpState>>, Path(stream): Path<String>) -> Result<Json<Vec<ConceptDetail>>, ApiError> {
    let stream: StreamId = stream.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let snapshot = state.snapshots.load();
    let filter = ConceptFilter { stream: Some(stream), ..ConceptFilter::default() };
    let detail = |now: ConceptView| {
        let model = snapshot.models.iter().find(|model| model.model_version == now.model_version);
        let history = model.map(|model| model.history.points(&now.segment, stream)).unwrap_or_default();
        ConceptDetail { now, history }
    };
    let found: Vec<ConceptDetail> = views::concepts(&snapshot, &filter, MAX_LIMIT).into_iter().map(detail).collect();
    if found.is_empty() {
        return Err(ApiError::not_found(format!("{stream} is not tested in any segment, or no window was judged yet")));
    }
    Ok(Json(found))
}

/// `/api/v1/windows`.
pub(super) async fn windows(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<WindowsQuery>, QueryRejection>,
) -> Result<Json<Vec<WindowSummary>>, ApiError> {
    let Query(query) = query?;
    let query = WindowQuery {
        from_ms: query.from.as_deref().map(instant).transpose()?,
        to_ms: query.to.as_deref().map(instant).transpose()?,
        segment: query.segment,
        model_version: query.model_version,
        limit: Some(limit(query.limit)),
        all_lineages: false,
    };
    let found = tokio::task::spawn_blocking(move || state.history.read(|reader| reader.summaries(&query))).await;
    Ok(Json(found.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??))
}

/// `/api/v1/alerts`.
pub(super) async fn alerts(State(state): State<Arc<HttpState>>) -> Json<Vec<AlertListing>> {
    Json(views::alerts(&state.snapshots.load()))
}

/// `/api/v1/alerts/{id}`.
pub(super) async fn alert(State(state): State<Arc<HttpState>>, Path(id): Path<String>) -> Result<Json<AlertDetail>, ApiError> {
    Ok(Json(detail(&state, &id).await?))
}

/// An alert and its explanation, from the store.
pub(super) async fn detail(state: &Arc<HttpState>, id: &str) -> Result<AlertDetail, ApiError> {
    let id: i64 = id.parse().map_err(|_| ApiError::bad_request(format!("expected the number of an alert, found {id:?}")))?;
    let reading = Arc::clone(state);
    let read = move || reading.history.read(|reader| Ok((reader.alert(id)?, reader.explanation(id)?)));
    let found = tokio::task::spawn_blocking(read).await;
    let (alert, explanation) = found.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??;
    let alert = alert.ok_or_else(|| ApiError::not_found(format!("no alert {id}")))?;
    Ok(AlertDetail::of(&state.snapshots.load(), &alert, explanation))
}

fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
}

fn instant(text: &str) -> Result<i64, ApiError> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let wrong = |error| ApiError::bad_request(format!("expected an RFC 3339 time or ms since 1970, found {text:?}: {error}"));
    Ok(text.parse::<jiff::Timestamp>().map_err(wrong)?.as_millisecond())
}
