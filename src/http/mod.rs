//! Two listeners: metrics and probes for Prometheus and the kubelet, page and API for people.
//!
//! Both only read; what changes something is a POST with a bearer token, handed to the judge, which
//! owns the store. Neither holds up the flow: they read an immutable snapshot, a small live copy, and
//! the store through a read-only connection of their own.

mod action_routes;
pub mod actions;
pub mod alert_view;
pub mod api;
pub mod client;
pub mod error;
pub mod openapi;
pub mod page;
pub mod probes;
mod reference_routes;
mod reload_route;
mod room;
mod same_store;
pub mod server;
mod sparkline;
pub mod state;
pub mod tls;
pub mod views;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::{get, post};

pub use crate::http::state::{History, HttpState};

/// `/metrics` and the probes.
pub fn metrics_router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/startupz", get(probes::started))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .with_state(state)
}

/// The page and `/api/v1`.
pub fn api_router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/", get(page::overview))
        .route("/concepts", get(page::concepts))
        .route("/concepts/{stream}", get(page::concept))
        .route("/alerts/{id}", get(page::alert).post(page::act))
        .route("/reference", get(page::reference))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/concepts", get(api::concepts))
        .route("/api/v1/concepts/{stream}", get(api::concept))
        .route("/api/v1/windows", get(api::windows))
        .route("/api/v1/alerts", get(api::alerts))
        .route("/api/v1/alerts/{id}", get(api::alert))
        .route("/api/v1/alerts/test", post(action_routes::test))
        .route("/api/v1/alerts/{id}/{action}", post(action_routes::act))
        .route("/api/v1/references", post(reference_routes::build))
        .route("/api/v1/references/{name}/approve", post(reference_routes::approve))
        .route("/api/v1/reload", post(reload_route::reload))
        .route("/api/v1/openapi.json", get(openapi::document))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), same_store::check))
        .layer(axum::middleware::map_response(with_security_headers))
        .with_state(state)
}

/// The pages need no script, no foreign source and no frame, and send forms only to where they come from; so
/// nothing else is allowed.
async fn with_security_headers(mut response: axum::response::Response) -> axum::response::Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
