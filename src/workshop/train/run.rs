//! A whole run: rows in, a run folder out. It goes on where a killed one stopped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::bundle::onnx::write::{dense_graph, full_graph};
use crate::bundle::weights_file;
use crate::sae::weights::{SaeWeights, Selection};
use crate::workshop::dataset::Dataset;
use crate::workshop::evaluate::quality::Quality;
use crate::workshop::train::checkpoint::{self, Checkpoint};
use crate::workshop::train::curve::{self, CurvePoint};
use crate::workshop::train::finish;
use crate::workshop::train::prepare::{HeldOut, Rows, Split};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::state::TrainingState;
use crate::workshop::train::trainer::Trainer;

/// Points of the curve, and measurements on held-out rows, in a run.
const CURVE_POINTS: u64 = 100;
const HELD_OUT_POINTS: u64 = 10;
/// Rows of held-out entities behind a point of the curve; the end is measured on all.
const HELD_OUT_ROWS: usize = 2_000;
/// Name of what a run says of itself.
pub const RUN_FILE: &str = "run.json";
/// The same while it is written.
const STAGED_RUN_FILE: &str = ".run.json";
/// Folder inside a run folder of the same SAE with the threshold instead of k.
pub const THRESHOLD_FOLDER: &str = "threshold";

/// What every run of a command has in common.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// All rows.
    pub dataset: &'a Dataset,
    /// What they are for.
    pub split: &'a Split,
    /// By what they were split.
    pub held_out: &'a HeldOut,
    /// Those that are trained on.
    pub rows: &'a Rows,
    /// Hash of those.
    pub data: &'a str,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
}

/// What a run folder says in `run.json`.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The program.
    pub recsae_version: &'static str,
    /// What was trained and how.
    pub recipe: Recipe,
    /// Files and filters, in words.
    pub data: String,
    /// By what rows were held out.
    pub held_out: HeldOut,
    /// SHA-256 of the training rows as trained on.
    pub rows_sha256: String,
    /// Factor by which the vectors were scaled; the files have it taken back.
    pub scale: f32,
    /// Quality on the rows trained on.
    pub train: Measured,
    /// On entities never trained on (rows, where no entity is known); absent where none are held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_entities: Option<Measured>,
    /// On items never trained on; absent where items are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_items: Option<Measured>,
    /// Above this value a latent counts as active where an engine has no TopK; the mean L0 is then k.
    pub threshold: f32,
    /// Quality with the threshold instead of TopK, on the rows trained on.
    pub with_threshold: Quality,
    /// Seconds of training, this process.
    pub seconds: f64,
    /// Rows this process trained on, with repetition.
    pub rows_trained: u64,
    /// The curve.
    pub curve: Vec<CurvePoint>,
}

/// Quality and dead latents over the same rows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Quality.
    #[serde(flatten)]
    pub quality: Quality,
    /// Share of latents that fired in none of these rows.
    pub dead: f64,
}

/// Trains one SAE into `folder`. `described` says in words what the rows are; `progress` is told steps
/// done, of how many, and the last point of the curve.
///
/// # Errors
/// The folder holds another run, or cannot be written.
pub fn train(
    common: Common<'_>,
    recipe: &Recipe,
    folder: &Path,
    threads: usize,
    described: &str,
    progress: &(dyn Fn(u64, u64, Option<&CurvePoint>) + Sync),
) -> anyhow::Result<RunReport> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let rows = common.rows;
    let batch = recipe.batch.min(rows.n_rows());
    let per_epoch = (rows.n_rows() / batch).max(1) as u64;
    let n_steps = per_epoch * recipe.epochs as u64;
    let (state, mut curve) = match checkpoint::read(folder, recipe, common.data)? {
        Some(checkpoint) => (checkpoint.state, checkpoint.curve),
        None => (TrainingState::new(recipe, &rows.centre), Vec::new()),
    };
    let rows_before = state.rows;
    let mut trainer = Trainer::new(recipe.clone(), state, rows.variance, threads);
    let (started, mut saved) = (Instant::now(), Instant::now());
    let mut order = Order::new(recipe.seed, rows.n_rows());
    let (mut loss, mut n_losses) = (0.0, 0u32);
    let held_out: Vec<usize> = spread(&common.split.by_entity, HELD_OUT_ROWS);
    let mut buffer: Vec<&[f32]> = Vec::with_capacity(batch);
    while trainer.done().0 < n_steps {
        let (step, _) = trainer.done();
        let place = usize::try_from(step % per_epoch).unwrap_or(0);
        buffer.clear();
        buffer.extend(order.of_epoch(step / per_epoch)[place * batch..(place + 1) * batch].iter().map(|row| rows.row(*row as usize)));
        let report = trainer.step(&buffer, n_steps);
        (loss, n_losses) = (loss + report.loss, n_losses + 1);
        let step = step + 1;
        if is_point(step, n_steps, CURVE_POINTS) {
            let measure = !held_out.is_empty() && is_point(step, n_steps, HELD_OUT_POINTS);
            let sae = if measure { Some(finish::weights(recipe, trainer.state(), rows.scale)?) } else { None };
            let held_out_fvu = sae.map(|sae| finish::quality(&sae, common.dataset, &held_out)).transpose()?.map(|(quality, _)| quality.fvu);
            curve.push(CurvePoint { rows: trainer.done().1, train_fvu: loss / f64::from(n_losses), held_out_fvu, dead: report.n_dead });
            (loss, n_losses) = (0.0, 0);
            // Only at a point of the curve, so that a run that goes on has the same curve.
            if saved.elapsed() >= common.checkpoint_every && step < n_steps {
                let (state, data) = (trainer.state().clone(), common.data.to_owned());
                checkpoint::write(folder, &Checkpoint { recipe: recipe.clone(), data, state, curve: curve.clone() })?;
                saved = Instant::now();
            }
            progress(step, n_steps, curve.last());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let sae = finish::weights(recipe, trainer.state(), rows.scale)?;
    let report = report(common, recipe, &sae, curve, described, (seconds, trainer.done().1 - rows_before))?;
    write(folder, &sae, &report)?;
    checkpoint::remove(folder);
    Ok(report)
}

/// Hash of rows: what a checkpoint and a run folder name them by.
#[must_use]
pub fn hash(rows: &Rows) -> String {
    let mut hasher = Sha256::new();
    hasher.update(rows.scale.to_le_bytes());
    let mut bytes = Vec::new();
    for values in rows.values.chunks(4096) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn report(
    common: Common<'_>,
    recipe: &Recipe,
    sae: &SaeWeights,
    curve: Vec<CurvePoint>,
    described: &str,
    (seconds, rows_trained): (f64, u64),
) -> anyhow::Result<RunReport> {
    let measure = |rows: &[usize]| -> anyhow::Result<Option<Measured>> {
        if rows.is_empty() {
            return Ok(None);
        }
        let (quality, fired) = finish::quality(sae, common.dataset, rows)?;
        let dead = fired.iter().filter(|fired| **fired == 0).count() as f64 / fired.len().max(1) as f64;
        Ok(Some(Measured { quality, dead }))
    };
    let threshold = finish::threshold(sae, recipe.k, common.dataset, &common.split.train)?;
    let by_threshold = finish::with_selection(sae, Selection::Threshold(threshold))?;
    Ok(RunReport {
        recsae_version: env!("CARGO_PKG_VERSION"),
        recipe: recipe.clone(),
        data: described.to_owned(),
        held_out: common.held_out.clone(),
        rows_sha256: common.data.to_owned(),
        scale: common.rows.scale,
        train: measure(&common.split.train)?.context("no row to train on")?,
        held_out_entities: measure(&common.split.by_entity)?,
        held_out_items: measure(&common.split.by_item)?,
        threshold,
        with_threshold: finish::quality(&by_threshold, common.dataset, &common.split.train)?.0,
        seconds,
        rows_trained,
        curve,
    })
}

/// The run folder: `run.json` comes last, so that a folder with one is whole. The SAE that has the threshold instead of
/// k lies in a folder inside, which every command takes as it takes the run folder.
fn write(folder: &Path, sae: &SaeWeights, report: &RunReport) -> anyhow::Result<()> {
    let file = |name: &str, bytes: &[u8]| {
        let path: PathBuf = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let (threshold, seed) = (report.threshold.to_string(), report.recipe.seed.to_string());
    let notes = [("fixed_threshold", threshold.as_str()), ("seed", seed.as_str()), ("rows_sha256", report.rows_sha256.as_str())];
    file("weights.safetensors", &weights_file::write(sae, &notes).map_err(anyhow::Error::msg)?)?;
    file("sae.onnx", &full_graph(sae).map_err(anyhow::Error::msg)?)?;
    let inside = folder.join(THRESHOLD_FOLDER);
    std::fs::create_dir_all(&inside).with_context(|| inside.display().to_string())?;
    let by_threshold = finish::with_selection(sae, Selection::Threshold(report.threshold))?;
    let name = |name: &str| format!("{THRESHOLD_FOLDER}/{name}");
    file(&name("weights.safetensors"), &weights_file::write(&by_threshold, &notes[1..]).map_err(anyhow::Error::msg)?)?;
    file(&name("sae.onnx"), &full_graph(&by_threshold).map_err(anyhow::Error::msg)?)?;
    file("encoder.onnx", &dense_graph(sae).map_err(anyhow::Error::msg)?)?;
    file("loss.svg", curve::svg(&report.curve).as_bytes())?;
    file(STAGED_RUN_FILE, &serde_json::to_vec_pretty(report)?)?;
    std::fs::rename(folder.join(STAGED_RUN_FILE), folder.join(RUN_FILE)).with_context(|| format!("cannot write {}", folder.display()))
}

/// What a finished run of this recipe on these rows said in `folder`; none where there is none.
///
/// # Errors
/// The run there is another one, or what it said cannot be read.
pub fn finished(folder: &Path, recipe: &Recipe, data: &str) -> anyhow::Result<Option<Value>> {
    let path = folder.join(RUN_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let said: Value = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    let same = Recipe::deserialize(&said["recipe"]).is_ok_and(|trained| trained == *recipe) && said["rows_sha256"] == data;
    ensure!(same, "{} holds a finished run of another recipe or on other rows: give another --out", folder.display());
    Ok(Some(said))
}

/// Whether `step` is one of about `points` evenly spread ones; the last step always is.
fn is_point(step: u64, n_steps: u64, points: u64) -> bool {
    step * points / n_steps != (step - 1) * points / n_steps
}

/// At most `n` of the rows, evenly spread.
fn spread(rows: &[usize], n: usize) -> Vec<usize> {
    rows.iter().copied().step_by(rows.len().div_ceil(n).max(1)).collect()
}

/// The order of the rows in an epoch: a stream of its own each, so that a run can begin anywhere.
struct Order {
    seed: u64,
    epoch: Option<u64>,
    rows: Vec<u32>,
}

impl Order {
    fn new(seed: u64, n_rows: usize) -> Self {
        Self { seed, epoch: None, rows: (0..u32::try_from(n_rows).unwrap_or(u32::MAX)).collect() }
    }

    fn of_epoch(&mut self, epoch: u64) -> &[u32] {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(epoch + 1);
            (0u32..).zip(&mut self.rows).for_each(|(number, row)| *row = number);
            self.rows.shuffle(&mut rng);
        }
        &self.rows
    }
}
