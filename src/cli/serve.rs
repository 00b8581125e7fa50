//! The two listeners of a running monitor: what `run` and `demo` put around it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use tokio::runtime::Handle;

use crate::cli::reference::{facts, fit};
use crate::clock::Clock;
use crate::config::Fault;
use crate::config::settings::Settings;
use crate::http::actions::{ActionError, ActionRequest, ActionSender, ReferenceRequest, ReferenceSender, ReloadSender, Token};
use crate::http::server::ListenOptions;
use crate::http::{History, HttpState, api_router, metrics_router, server, tls};
use crate::metrics::exposition::Exposition;
use crate::metrics::selection::Limits;
use crate::monitor::command::{Commands, JudgeCommand};
use crate::monitor::{MonitorError, Opened};
use crate::store::StoreReader;
use crate::store::references::Approval;
use crate::task::TaskGroup;

/// Where a running monitor can be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// `/metrics` and probes.
    pub metrics: SocketAddr,
    /// Page and API.
    pub http: SocketAddr,
}

/// Opens both listeners over the parts of a monitor.
///
/// # Errors
/// An address is taken or cannot be read, the token file cannot be read, a pinned stream has no such name.
pub fn serve(
    settings: &Settings,
    opened: Opened,
    clock: Arc<dyn Clock>,
    reload: Option<ReloadSender>,
    group: &TaskGroup,
    runtime: &Handle,
) -> Result<Addresses, MonitorError> {
    let pinned = settings
        .metrics
        .pinned
        .iter()
        .map(|name| name.parse().map_err(|error| MonitorError::Config(vec![Fault::new("metrics.pinned", format!("{error}"))])));
    let limits = Limits {
        max_series: settings.metrics.max_series,
        top_concepts: settings.metrics.top_concepts,
        pinned: pinned.collect::<Result<_, MonitorError>>()?,
    };
    let token = token(settings)?;
    let refused = opened.metrics.http_rejected.clone();
    let state = Arc::new(HttpState {
        exposition: Arc::new(Exposition::new(Arc::clone(&opened.snapshot), Arc::clone(&opened.live), opened.metrics, limits)),
        snapshots: opened.snapshot,
        live: opened.live,
        clock,
        actions: actions(opened.commands.clone()),
        references: references(settings.clone(), opened.commands),
        reload,
        token,
        bundles: opened.bundles,
        history: History::of(settings.store.path.clone()),
    });
    let tls = tls(settings)?;
    let open = |key: &'static str, address: &String, router, options| {
        let listener =
            server::bind(address, key).map_err(|error| MonitorError::Listen { key, address: error.address, source: error.source })?;
        server::serve(group, runtime, key, listener, router, options, refused.clone()).map_err(|source| MonitorError::Listen {
            key,
            address: address.clone(),
            source,
        })
    };
    let metrics = open("metrics.listen", &settings.metrics.listen, metrics_router(Arc::clone(&state)), ListenOptions::default())?;
    let http = open("http.listen", &settings.http.listen, api_router(state), ListenOptions { tls, ..ListenOptions::default() })?;
    tracing::info!(%metrics, %http, "listening");
    Ok(Addresses { metrics, http })
}

/// References: fitted here, to windows read beside the judge, and handed to the judge, who owns the store.
fn references(settings: Settings, commands: Commands) -> ReferenceSender {
    Arc::new(move |request| {
        let busy = |_| ActionError::Busy;
        let (reply, answer) = channel();
        let (command, facts) = match request {
            ReferenceRequest::Build(body) => {
                let reader = StoreReader::open(&settings.store.path)?;
                let reference = fit(&settings, &reader, &body).map_err(|error| ActionError::Refused(format!("{error:#}")))?;
                let facts = facts(&reference);
                (JudgeCommand::PutReference { reference: Box::new(reference), reply }, facts)
            }
            ReferenceRequest::Approve { name, who, why, at_ms } => {
                // Told to who approves; that there is no such reference is the judge's to say.
                let checked = StoreReader::open(&settings.store.path)?.fitted(&name)?.map(|(_, reference)| reference.self_check);
                let facts = serde_json::json!({ "name": name, "self_check": checked });
                (JudgeCommand::ApproveReference { name, approval: Approval { who, why, at_ms }, reply }, facts)
            }
        };
        commands.try_send(command).map_err(|_| ActionError::Busy)?;
        answer.recv().map_err(busy)??;
        Ok(facts)
    })
}

/// The token of the page and API listener, where its file is named.
///
/// # Errors
/// It cannot be read.
pub(super) fn token(settings: &Settings) -> Result<Option<Token>, MonitorError> {
    let read = |path: &Path| Token::from_file(path).map_err(|source| MonitorError::File { path: path.to_owned(), source });
    settings.http.token_file.as_deref().map(read).transpose()
}

/// TLS of the page and API listener, where its files are named.
///
/// # Errors
/// They cannot be read, hold something else, or do not belong together.
pub(super) fn tls(settings: &Settings) -> Result<Option<tls::Acceptor>, MonitorError> {
    let files = settings.http.tls_cert_file.as_deref().zip(settings.http.tls_key_file.as_deref());
    let opened = files.map(|(cert, key)| tls::acceptor(cert, key)).transpose();
    opened.map_err(|error| MonitorError::Config(vec![Fault::new(error.key(), error.to_string())]))
}

/// Operator actions on their way to the judge, who owns the store. Called on a thread that may block.
fn actions(commands: Commands) -> ActionSender {
    Arc::new(move |request| {
        let busy = |_| ActionError::Busy;
        match request {
            ActionRequest::Alert { id, action } => {
                let (reply, answer) = channel();
                commands.try_send(JudgeCommand::Act { alert: id, action, reply }).map_err(|_| ActionError::Busy)?;
                Ok(answer.recv().map_err(busy)?.map(Some)?)
            }
            ActionRequest::Test { who, why, until_ms, .. } => {
                let (reply, answer) = channel();
                commands.try_send(JudgeCommand::TestAlert { who, why, until_ms, reply }).map_err(|_| ActionError::Busy)?;
                Ok(answer.recv().map_err(busy)?.map(|()| None)?)
            }
        }
    })
}
