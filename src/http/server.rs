//! A listener with limits: connections, time to send a header, size of a body, time to answer.
//!
//! With TLS the handshake must be done within the same time as a header, and counts as a connection
//! from its first byte: a client that never finishes it costs no more than one that never asks.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::http::error::ApiError;
use crate::http::room::{Mark, Room};
use crate::http::tls::Acceptor;
use crate::metrics::Counter;
use crate::task::{Shutdown, TaskError, TaskGroup};

/// Longest a request may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest body: an action is some hundred bytes.
const MAX_BODY: usize = 64 << 10;
/// Longest header buffer; hyper's least is 8 KiB.
const MAX_HEADER: usize = 16 << 10;
/// How long open requests may go on once the program stops.
const GRACE: Duration = Duration::from_secs(1);

/// How a listener answers.
#[derive(Clone)]
pub struct ListenOptions {
    /// TLS; with it nothing else is spoken.
    pub tls: Option<Acceptor>,
    /// Most connections at a time: 50 scrapers fit, and a flood does not cost memory. One more closes the one that has
    /// waited longest for its client (see `room`).
    pub max_connections: usize,
    /// Longest wait for a whole request header, and before it for the TLS handshake: a client that sends
    /// a byte a second is cut off.
    pub header_timeout: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { tls: None, max_connections: 256, header_timeout: Duration::from_secs(10) }
    }
}

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

/// Serves `router` on `listener` as a member of `group` until its flag goes up; the address it listens on. `refused`
/// counts the requests that a limit or a missing token turns away.
///
/// # Errors
/// The listener cannot be given to the runtime.
pub fn serve(
    group: &TaskGroup,
    runtime: &Handle,
    name: &str,
    listener: StdListener,
    router: Router,
    options: ListenOptions,
    refused: Counter,
) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let _runtime = runtime.enter();
    let listener = TcpListener::from_std(listener)?;
    let limits = axum::middleware::from_fn_with_state(refused.clone(), within_limits);
    let router = router.layer(limits).layer(DefaultBodyLimit::max(MAX_BODY));
    group.task(runtime, name, accept(listener, router, options, refused, group.shutdown().clone()));
    Ok(address)
}

/// Accepts, and makes room. The connections live in this task's room: when it ends, they end.
async fn accept(
    listener: TcpListener,
    router: Router,
    options: ListenOptions,
    refused: Counter,
    shutdown: Shutdown,
) -> Result<(), TaskError> {
    let mut room = Room::new(options.max_connections);
    loop {
        let stream = tokio::select! {
            () = shutdown.triggered() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file handles: wait until a connection ends instead of spinning.
                Err(_) => { tokio::time::sleep(Duration::from_millis(100)).await; continue; }
            },
        };
        tokio::select! {
            () = shutdown.triggered() => break,
            () = room.make() => {}
        }
        let (router, options, refused, shutdown) = (router.clone(), options.clone(), refused.clone(), shutdown.clone());
        room.open(|mark| async move {
            let patience = options.header_timeout;
            match options.tls {
                None => answer(stream, router, patience, &refused, mark, shutdown).await,
                Some(tls) => match tokio::time::timeout(patience, tls.accept(stream)).await {
                    Ok(Ok(stream)) => answer(stream, router, patience, &refused, mark, shutdown).await,
                    // Plain HTTP, a certificate that is not trusted, a scanner: the client's affair.
                    Ok(Err(error)) => tracing::debug!(%error, "tls handshake failed"),
                    Err(_) => {
                        refused.inc();
                        tracing::debug!("tls handshake took too long");
                    }
                },
            }
        });
    }
    drop(listener);
    // Past the grace the room is dropped, which cuts the connections that are left.
    if tokio::time::timeout(GRACE, room.end()).await.is_err() {
        tracing::info!("http requests were cut off at shutdown");
    }
    Ok(())
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    router: Router,
    header_timeout: Duration,
    refused: &Counter,
    mark: Mark,
    shutdown: Shutdown,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let answering = mark.answering();
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            drop(answering);
            answer
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
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
        // A header that is no header, too long, or never whole: no handler has seen it.
        refused.inc_by(u64::from(error.is_parse() || error.is_timeout()));
        tracing::debug!(%error, "http connection ended");
    }
}

/// Cuts off an answer that takes too long, and counts what a limit or a missing token refused.
async fn within_limits(State(refused): State<Counter>, request: Request, next: Next) -> Response {
    let Ok(response) = tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await else {
        refused.inc();
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", "the answer took longer than 30 s").into_response();
    };
    if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE) {
        refused.inc();
    }
    response
}
