//! What a start needs beside a sound configuration, its bundles and the broker: files, places and addresses. Looked at
//! without taking anything, so that a reload can refuse what would not start while the old configuration still runs.

use std::path::Path;

use crate::cli::serve::{tls, token};
use crate::config::Fault;
use crate::config::settings::Settings;
use crate::decode::Decoder;
use crate::http::server;
use crate::monitor::MonitorError;
use crate::store::StoreReader;

/// The first part of `next` that could not be opened while `running` still holds its own store and addresses.
///
/// # Errors
/// That part, with what to do.
pub(super) fn startable(next: &Settings, running: &Settings) -> Result<(), MonitorError> {
    // The salt changes no place.
    Decoder::new(&next.record, &next.segments.fields, &[0; 16])?;
    token(next)?;
    tls(next)?;
    store(&next.store.path)?;
    let held = [&running.metrics.listen, &running.http.listen];
    for (key, address) in [("metrics.listen", &next.metrics.listen), ("http.listen", &next.http.listen)] {
        if !held.contains(&address) {
            server::bind(address, key).map_err(|error| MonitorError::Listen { key, address: error.address, source: error.source })?;
        }
    }
    Ok(())
}

/// The store's folder can be written to, and what is at its path is a store of ours.
fn store(path: &Path) -> Result<(), MonitorError> {
    let folder = folder_of(path);
    writable(folder).map_err(|error| {
        let message =
            format!("expected a folder that can be written to at {}, found: {error}; make it, or mend the path", folder.display());
        MonitorError::Config(vec![Fault::new("store.path", message)])
    })?;
    if path.exists() {
        StoreReader::open(path)?;
    }
    Ok(())
}

/// The folder that a store lies in.
pub(super) fn folder_of(store: &Path) -> &Path {
    store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file and takes it away again: a folder's mode does not say what a read-only or a full disk does.
pub(super) fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".recsae-check-{}", std::process::id()));
    std::fs::write(&probe, b"probe")?;
    std::fs::remove_file(&probe)
}
