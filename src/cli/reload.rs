//! SIGHUP, or `POST /api/v1/reload`: the configuration and its bundles are read again, checked, and only then taken up.
//!
//! What is new is opened beside what runs: every fault of the configuration is looked for, every bundle is
//! opened and its golden rows are met, files and addresses are tried, and the broker is asked for the topics. A fault
//! is logged and the old configuration goes on untouched. Else the running part drains (everything counted is stored
//! and committed) and a new one starts in the same process, where the old one stopped. Should that start be refused all
//! the same (an address taken in between, a store that another process has), `run` goes back to the old configuration.
//! A changed SAE begins a new lineage at a window edge (`store::lineage`),
//! so no window mixes two; the one that was open gets no verdict.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::startable::startable;
use crate::config;
use crate::config::settings::Settings;
use crate::monitor::models::Models;
use crate::monitor::setup::connect;
use crate::task::Shutdown;

/// What the watcher and the run share.
#[derive(Clone)]
pub(super) struct Reload {
    file: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    next: Option<Settings>,
    running: Option<(Settings, Shutdown)>,
}

impl Reload {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, state: Arc::default() }
    }

    /// What runs from now on, and how the next reload stops it.
    pub(super) fn runs(&self, settings: &Settings, shutdown: Shutdown) {
        self.lock().running = Some((settings.clone(), shutdown));
    }

    /// The configuration to go on with, if the run was stopped for one.
    pub(super) fn take(&self) -> Option<Settings> {
        self.lock().next.take()
    }

    /// Serves SIGHUP until the shutdown.
    pub(super) async fn watch(self, shutdown: Shutdown) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                _ = hangup.recv() => {}
            }
            let reload = self.clone();
            // What is refused is in the log by then.
            drop(tokio::task::spawn_blocking(move || reload.take_up()).await.map_err(std::io::Error::other)?);
        }
    }

    /// Reads and checks the file and all that it names; what runs is stopped for it if it is sound.
    ///
    /// # Errors
    /// What is not sound, in words; what runs goes on.
    pub(super) fn take_up(&self) -> Result<(), String> {
        let Some((running, _)) = self.lock().running.clone() else { return Err("the program is starting: try again".to_owned()) };
        let settings =
            checked(&self.file, &running).inspect_err(|why| tracing::error!(why, "reload refused, the old configuration goes on"))?;
        tracing::info!("configuration and bundles are sound: drained and started again with them");
        let mut state = self.lock();
        state.next = Some(settings);
        if let Some((_, running)) = &state.running {
            running.trigger();
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings of the file, if everything in them can be used.
fn checked(file: &Path, running: &Settings) -> Result<Settings, String> {
    let settings = config::load(file, std::env::vars()).map_err(|error| error.to_string())?;
    let faults = config::check(&settings);
    if !faults.is_empty() {
        return Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let faults = crate::kafka::settings::faults(&settings.kafka);
    if !faults.is_empty() {
        return Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    Models::open(&settings).and_then(|models| models.encoders(&settings)).map_err(|error| error.to_string())?;
    startable(&settings, running).map_err(|error| error.to_string())?;
    connect(&settings.kafka).map_err(|error| error.to_string())?;
    Ok(settings)
}
