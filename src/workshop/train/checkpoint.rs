//! A run on disk between two steps, so that a killed run goes on to the same bytes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::workshop::train::curve::CurvePoint;
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::state::TrainingState;

/// Its name in the run folder.
pub const CHECKPOINT_FILE: &str = "checkpoint.msgpack";

/// What is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What is trained.
    pub recipe: Recipe,
    /// Hash of the training rows: another data set is another run.
    pub data: String,
    /// The run.
    pub state: TrainingState,
    /// The curve so far.
    pub curve: Vec<CurvePoint>,
}

/// Writes the checkpoint beside its place and moves it there whole.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Path, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let bytes = rmp_serde::to_vec(checkpoint)?;
    let (path, staging) = (path(folder), folder.join(format!(".{CHECKPOINT_FILE}")));
    let write = || {
        let mut file = std::fs::File::create(&staging)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&staging, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The checkpoint in `folder`; none where there is none.
///
/// # Errors
/// It cannot be read, or is of another recipe or other data.
pub fn read(folder: &Path, recipe: &Recipe, data: &str) -> anyhow::Result<Option<Checkpoint>> {
    let path = path(folder);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let found: Checkpoint = rmp_serde::from_slice(&bytes)
        .with_context(|| format!("{} is no checkpoint of this recsae: remove it to start anew", path.display()))?;
    let elsewhere = "give another --out, or remove the folder to start anew";
    ensure!(found.recipe == *recipe, "{} belongs to a run of another recipe ({:?}): {elsewhere}", path.display(), found.recipe);
    ensure!(found.data == data, "{} belongs to a run on other rows: {elsewhere}", path.display());
    Ok(Some(found))
}

/// Removes the checkpoint of a finished run.
pub fn remove(folder: &Path) {
    // What is left behind is only disk: the run folder says that it is finished.
    std::fs::remove_file(path(folder)).ok();
}

fn path(folder: &Path) -> PathBuf {
    folder.join(CHECKPOINT_FILE)
}
