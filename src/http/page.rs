//! The pages: overview, concepts, one concept, one alert, references. Server-rendered, no scripts, so that they read in
//! a terminal's browser at 3 a.m. as well as by ear; what the pages show and the API answers come from the same views.

use std::sync::Arc;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use crate::drift::alert::AlertListing;
use crate::drift::closed::counted_version;
use crate::drift::report::AlertState;
use crate::drift::stream::StreamId;
use crate::http::action_routes::{holds_token, perform};
use crate::http::api::detail;
use crate::http::error::ApiError;
use crate::http::page::form::{Filled, Tried};
use crate::http::page::layout::{Here, shell};
use crate::http::page::list::Search;
use crate::http::state::HttpState;
use crate::http::views::{self, ConceptFilter, ConceptView};
use crate::sae::nearest::nearest;
use crate::snapshot::{RatePoint, Snapshot};
use crate::store::{StoreError, StoreReader};

mod alert;
mod concept;
pub(super) mod form;
mod layout;
pub(super) mod list;
mod overview;
mod reference;
mod timeline;
mod words;

/// Neighbours on a concept's card.
const NEIGHBOURS: usize = 8;
/// Shortest time after which the overview may load itself again.
const LEAST_RENEWAL: u32 = 5;

/// Query of `/`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverviewQuery {
    renew: Option<u32>,
}

/// Query of `/concepts/{stream}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardQuery {
    model: Option<String>,
    segment: Option<String>,
}

/// An error of a page: the words of the API's, for people.
pub(super) struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let page = html! { (maud::DOCTYPE) html lang="en" { head { meta charset="utf-8"; title { "recsae: " (self.0.kind.replace('_', " ")) } }
        body { main { h1 { (self.0.kind.replace('_', " ")) } p { (self.0.message) } p { a href="/" { "Overview" } } } } } };
        (self.0.status, Html(page.into_string())).into_response()
    }
}

/// `GET /`.
pub(super) async fn overview(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<OverviewQuery>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let Query(query) = query?;
    let snapshot = state.snapshots.load();
    let content = |status: &views::StatusView| overview::content(&snapshot, status, state.clock.now_ms());
    let title = overview::title(&snapshot);
    Ok(page(&state, &title, Here::Overview, query.renew.map(|seconds| seconds.max(LEAST_RENEWAL)), content))
}

/// `GET /concepts`.
pub(super) async fn concepts(
    State(state): State<Arc<HttpState>>,
    query: Result<Query<Search>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let Query(search) = query?;
    let content = list::content(&state.snapshots.load(), &search);
    Ok(page(&state, "Concepts · recsae", Here::Concepts, None, |_| content))
}

/// `GET /concepts/{stream}`.
pub(super) async fn concept(
    State(state): State<Arc<HttpState>>,
    Path(stream): Path<String>,
    query: Result<Query<CardQuery>, QueryRejection>,
) -> Result<Html<String>, PageError> {
    let Query(query) = query?;
    let stream: StreamId = stream.parse().map_err(|error| ApiError::bad_request(format!("{error}")))?;
    let snapshot = state.snapshots.load();
    let filter = ConceptFilter { stream: Some(stream), model_version: query.model, ..ConceptFilter::default() };
    let found = views::concepts(&snapshot, &filter, usize::MAX);
    let not_found = || ApiError::not_found(format!("{stream} is not tested in any segment, or no window was judged yet"));
    let model = found.first().ok_or_else(not_found)?.model_version.clone();
    let wanted = query.segment.unwrap_or_else(|| crate::drift::closed::ALL.to_owned());
    let mut segments: Vec<(ConceptView, Vec<RatePoint>)> = found
        .into_iter()
        .filter(|view| view.model_version == model)
        .map(|view| (points(&snapshot, &view.model_version, &view.segment, stream), view))
        .map(|(points, view)| (view, points))
        .collect();
    segments.sort_by(|(a, _), (b, _)| (a.segment != wanted, &a.segment).cmp(&(b.segment != wanted, &b.segment)));
    let listed = views::alerts(&snapshot);
    let alerts: Vec<&AlertListing> = listed.iter().filter(|alert| alert.stream == stream && alert.model_version == model).collect();
    let numbers: Vec<i64> = alerts.iter().map(|alert| alert.id).collect();
    let explanation = read(&state, move |reader| numbers.iter().find_map(|id| reader.explanation(*id).transpose()).transpose()).await?;
    let bundle = state.bundles.iter().find(|(label, _)| label == counted_version(&model)).map(|(_, bundle)| bundle);
    let weights = bundle.and_then(|bundle| bundle.weights()).and_then(|weights| weights.w_dec());
    let nearest = match (stream, weights) {
        (StreamId::Latent(latent), Some(w_dec)) => nearest(w_dec, latent, NEIGHBOURS),
        _ => Vec::new(),
    };
    let card = concept::Card { segments, alerts, explanation, catalogue: bundle.map(|bundle| bundle.catalogue()), nearest };
    let title = format!("{} · recsae", card.segments[0].0.concept);
    Ok(page(&state, &title, Here::Concepts, None, |_| concept::content(&card)))
}

/// `GET /alerts/{id}`.
pub(super) async fn alert(State(state): State<Arc<HttpState>>, Path(id): Path<String>) -> Result<Html<String>, PageError> {
    alert_page(&state, &id, None).await
}

/// `POST /alerts/{id}`: the form. Done: back to the page; refused: the page with what was filled in and why not.
pub(super) async fn act(
    State(state): State<Arc<HttpState>>,
    Path(id): Path<String>,
    filled: Result<Form<Filled>, FormRejection>,
) -> Result<Response, PageError> {
    let Form(filled) = filled.map_err(|rejection| ApiError::new(rejection.status(), "bad_request", rejection.body_text()))?;
    let acted = async {
        holds_token(&state, Some(filled.token()))?;
        let (kind, body) = filled.asked(state.clock.now_ms())?;
        perform(&state, &id, kind, body).await
    };
    match acted.await {
        Ok(_) => Ok(Redirect::to(&format!("/alerts/{id}#actions")).into_response()),
        Err(error) if error.status == StatusCode::NOT_FOUND => Err(error.into()),
        Err(error) => {
            let tried = filled.refused(&error);
            Ok((error.status, alert_page(&state, &id, Some(&tried)).await?).into_response())
        }
    }
}

/// `GET /reference`.
pub(super) async fn reference(State(state): State<Arc<HttpState>>) -> Result<Html<String>, PageError> {
    let entries = read(&state, StoreReader::references).await?;
    let now_ms = state.clock.now_ms();
    Ok(page(&state, "Reference · recsae", Here::Reference, None, |status| reference::content(status, &entries, now_ms)))
}

async fn alert_page(state: &Arc<HttpState>, id: &str, tried: Option<&Tried>) -> Result<Html<String>, PageError> {
    let detail = detail(state, id).await?;
    let snapshot = state.snapshots.load();
    // The rates at hand are of the lineage in use: of an alert of another one they tell nothing.
    let points = match detail.alert.state {
        AlertState::Ended => Vec::new(),
        _ => points(&snapshot, &detail.alert.model_version, &detail.alert.segment, detail.alert.stream),
    };
    let title = format!("Alert {}: {} · recsae", detail.alert.id, detail.alert.concept);
    let content = alert::content(&detail, &points, state.clock.now_ms(), state.token.is_some(), tried);
    Ok(page(state, &title, Here::Alert, None, |_| content))
}

fn page(
    state: &HttpState,
    title: &str,
    here: Here,
    renew: Option<u32>,
    content: impl FnOnce(&views::StatusView) -> Markup,
) -> Html<String> {
    let status = views::status(&state.snapshots.load(), &state.live.load());
    Html(shell(title, here, &status, renew, &content(&status)).into_string())
}

/// Rates of a stream in the last windows.
fn points(snapshot: &Snapshot, model_version: &str, segment: &str, stream: StreamId) -> Vec<RatePoint> {
    let model = snapshot.models.iter().find(|model| model.model_version == model_version);
    model.map(|model| model.history.points(segment, stream)).unwrap_or_default()
}

/// Reads the store on a thread that may block.
async fn read<T: Send + 'static>(
    state: &Arc<HttpState>,
    read: impl FnOnce(&StoreReader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = Arc::clone(state);
    let found = tokio::task::spawn_blocking(move || state.history.read(read)).await;
    Ok(found.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))??)
}
