//! Two listeners: metrics and probes for Prometheus and the kubelet, page and API for people.
//!
//! Both only read; what changes something is a POST with a bearer token, handed to the judge, which
//! owns the store. Neither holds up the flow: they read an immutable snapshot, a small live copy, and
//! the store through a read-only connection of their own.

pub mod actions;
pub mod api;
pub mod error;
pub mod openapi;
pub mod page;
pub mod probes;
pub mod server;
mod sparkline;
pub mod views;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::{get, post};

use crate::clock::Clock;
use crate::http::actions::{ActionSender, Token};
use crate::metrics::exposition::Exposition;
use crate::snapshot::{Live, SnapshotCell};
use crate::store::StoreReader;

/// What the handlers read from and send to.
pub struct HttpState {
    /// The judge's picture.
    pub snapshots: Arc<SnapshotCell>,
    /// Partitions and readiness.
    pub live: Arc<Live>,
    /// `/metrics`.
    pub exposition: Arc<Exposition>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Hands an action to the judge.
    pub actions: ActionSender,
    /// What an action must show; without one actions are refused.
    pub token: Option<Token>,
    /// The store, opened for reading when first asked.
    pub history: History,
}

/// The store's read-only connection, opened when first needed.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    reader: Mutex<Option<StoreReader>>,
}

impl History {
    /// Of the store at `path`.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        Self { path, reader: Mutex::new(None) }
    }

    /// Reads with the connection; it is dropped after a failure, so that the next call opens a new one.
    ///
    /// # Errors
    /// The store cannot be opened, or `read` fails.
    pub fn read<T>(&self, read: impl FnOnce(&StoreReader) -> Result<T, crate::store::StoreError>) -> Result<T, crate::store::StoreError> {
        let mut slot = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reader = match slot.take() {
            Some(reader) => reader,
            None => StoreReader::open(&self.path)?,
        };
        let found = read(&reader)?;
        *slot = Some(reader);
        Ok(found)
    }
}

/// `/metrics` and the probes.
pub fn metrics_router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/startupz", get(probes::started))
        .fallback(error::no_such_path)
        .with_state(state)
}

/// The page and `/api/v1`.
pub fn api_router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/concepts", get(api::concepts))
        .route("/api/v1/concepts/{stream}", get(api::concept))
        .route("/api/v1/windows", get(api::windows))
        .route("/api/v1/alerts", get(api::alerts))
        .route("/api/v1/alerts/test", post(actions::test))
        .route("/api/v1/alerts/{id}/{action}", post(actions::act))
        .route("/api/v1/openapi.json", get(openapi::document))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(axum::middleware::map_response(with_security_headers))
        .with_state(state)
}

/// The page needs no script, no foreign source and no frame; so none is allowed.
async fn with_security_headers(mut response: axum::response::Response) -> axum::response::Response {
    const HEADERS: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
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
