//! A listener with limits: connections, time to send a header, size of a body, time to answer.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::error::ApiError;
use crate::task::{Shutdown, TaskError, TaskGroup};

/// Most connections at a time. More wait in the system's queue: 50 scrapers fit, a flood does not cost memory.
const MAX_CONNECTIONS: usize = 256;
/// Longest wait for a whole request header: a client that sends a byte a second is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest a request may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest body: an action is some hundred bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest header buffer; hyper's least is 8 KiB.
const MAX_HEADER: usize = 16 << 10;
/// How long open requests may go on once the program stops.
const GRACE: Duration = Duration::from_secs(1);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}; another process may have it, choose another address")]
pub struct ListenError {
    /// Address as configured.
    pub address: String,
    /// Configuration key.
    pub key: &'static str,
    /// Why.
    pub source: io::Error,
}

impl ListenError {
    /// Stable name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "listen"
    }
}

/// Takes the address before anything else starts, so that a taken port is a clear error at once.
///
/// # Errors
/// The address cannot be read or is taken.
pub fn bind(address: &str, key: &'static str) -> Result<StdListener, ListenError> {
    let refused = |source| ListenError { address: address.to_owned(), key, source };
    let listener = StdListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(listener)
}

/// Serves `router` on `listener` as a member of `group` until its flag goes up; the address it listens on.
///
/// # Errors
/// The listener cannot be given to the runtime.
pub fn serve(group: &TaskGroup, runtime: &Handle, name: &str, listener: StdListener, router: Router) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let _runtime = runtime.enter();
    let listener = TcpListener::from_std(listener)?;
    let router = router.layer(axum::middleware::from_fn(in_time)).layer(DefaultBodyLimit::max(MAX_BODY));
    group.task(runtime, name, accept(listener, router, group.shutdown().clone()));
    Ok(address)
}

/// Accepts while there is room. The connections live in this task's set: when it ends, they end.
async fn accept(listener: TcpListener, router: Router, shutdown: Shutdown) -> Result<(), TaskError> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.triggered() => break,
            Some(_) = connections.join_next() => continue,
            permit = Arc::clone(&room).acquire_owned() => permit?,
        };
        let stream = tokio::select! {
            () = shutdown.triggered() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file handles: wait until a connection ends instead of spinning.
                Err(_) => { tokio::time::sleep(Duration::from_millis(100)).await; continue; }
            },
        };
        let connection = answer(stream, router.clone(), shutdown.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    // Past the grace the set is dropped, which cuts the connections that are left.
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all_ended).await.is_err() {
        tracing::info!("http requests were cut off at shutdown");
    }
    Ok(())
}

async fn answer(stream: TcpStream, router: Router, shutdown: Shutdown) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // A connection that ends badly is the client's affair.
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.triggered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "http connection ended");
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "timeout", "the answer took longer than 30 s").into_response(),
    }
}
