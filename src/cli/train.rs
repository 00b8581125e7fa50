//! `recsae train`: TopK SAEs from recorded embeddings.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::cli::dataset_args::DatasetArgs;
use crate::cli::progress::Lines;
use crate::cli::{Outcome, UsageError};
use crate::workshop::dataset::Dataset;
use crate::workshop::encoding::n_threads;
use crate::workshop::train::curve::CurvePoint;
use crate::workshop::train::prepare::{HeldOut, Rows, split};
use crate::workshop::train::recipe::Recipe;
use crate::workshop::train::run::{self, Common, RUN_FILE, RunReport};

/// Arguments of `recsae train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae train --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --where split=train --entity user_id --out run/
  recsae train --embeddings bprmf.user_embeddings.npy --by user_id --fields sasrec.events.parquet --where split=train \\
      --entity user_id --items target_item --k 8,32 --scale 16,32 --seed 1,2,3 --out runs/")]
pub struct Args {
    #[command(flatten)]
    data: DatasetArgs,
    /// Column that names the user: users are held out whole [default: --by, else entity, user_id, user or session_id]
    #[arg(long, value_name = "COLUMN")]
    entity: Option<String>,
    /// Column of the item (or of items, of which the first counts): items are held out too
    #[arg(long, value_name = "COLUMN")]
    items: Option<String>,
    /// Share of the users, and of the items, that are held out
    #[arg(long, default_value_t = 0.05)]
    hold_out: f64,
    /// Active latents a row; several train several SAEs in one pass
    #[arg(long, value_delimiter = ',', default_value = "32")]
    k: Vec<NonZeroUsize>,
    /// Latents, as a multiple of the vector's width; one for each k, or one for all
    #[arg(long, value_delimiter = ',', default_value = "32", conflicts_with = "d_sae")]
    scale: Vec<NonZeroUsize>,
    /// Latents; one for each k, or one for all
    #[arg(long, value_delimiter = ',')]
    d_sae: Vec<NonZeroUsize>,
    /// Seeds: each trains every SAE
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// Passes over the rows
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// Rows a step
    #[arg(long)]
    batch: Option<NonZeroUsize>,
    /// Largest learning rate
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Threads [default: all cores]; the same bytes with any number
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Seconds between two checkpoints; a killed run goes on with the same command
    #[arg(long, default_value_t = 10.0)]
    checkpoint_every: f64,
    /// Run folder; with several SAEs one inside for each, k8_d1024_seed1
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Trains every SAE that was asked for.
///
/// # Errors
/// Rows are refused, a folder holds another run, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let runs = train(args).map_err(|error| UsageError(format!("{error:#}")))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let json: Vec<_> = runs.iter().map(|(folder, run)| serde_json::json!({ "folder": folder, "run": run })).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(Outcome::Done);
    }
    for (folder, run) in &runs {
        match run {
            Run::Now(report) => print(&mut out, folder, report)?,
            Run::Before(_) => writeln!(out, "{}: finished before, left as it is", folder.display())?,
        }
    }
    Ok(Outcome::Done)
}

/// What became of a run.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Run {
    Now(Box<RunReport>),
    /// One of several, which an earlier command finished before it was killed: what it said.
    Before(Value),
}

fn train(args: &Args) -> anyhow::Result<Vec<(PathBuf, Run)>> {
    ensure!((0.0..=0.5).contains(&args.hold_out), "--hold-out {}: expected a share from 0 to 0.5", args.hold_out);
    ensure!(args.checkpoint_every >= 0.0, "--checkpoint-every: expected seconds");
    if let Some(rate) = args.learning_rate {
        ensure!(rate.is_finite() && rate > 0.0, "--learning-rate {rate}: expected a number above zero");
    }
    let dataset = Dataset::open(&args.data.request()?)?;
    let recipes = recipes(args, dataset.d_in())?;
    let runs: Vec<(PathBuf, Recipe)> = recipes.into_iter().map(|recipe| (folder(args, &recipe), recipe)).collect();
    let several = args.seed.len() * args.k.len().max(args.scale.len()).max(args.d_sae.len()) > 1;
    let runs: Vec<(PathBuf, Recipe)> =
        if several { runs } else { runs.into_iter().map(|(_, recipe)| (args.out.clone(), recipe)).collect() };
    let is_finished = |(folder, _): &(PathBuf, Recipe)| folder.join(RUN_FILE).exists();
    ensure!(!runs.iter().all(is_finished), "{} holds a finished run: give another --out", args.out.display());
    let held_out = HeldOut { share: args.hold_out, entity: entity(args, &dataset), item: args.items.clone() };
    let split = split(&dataset, &held_out)?;
    let least = runs.iter().map(|(_, recipe)| recipe.batch).max().unwrap_or(1).min(256).max(2 * dataset.d_in());
    let rows = Rows::of(&dataset, &split.train, least)?;
    let hash = run::hash(&rows);
    let checkpoint_every = Duration::try_from_secs_f64(args.checkpoint_every)?;
    // Before hours are spent on the others.
    runs.iter().try_for_each(|(folder, recipe)| run::finished(folder, recipe, &hash).map(drop))?;
    let common = Common { dataset: &dataset, split: &split, held_out: &held_out, rows: &rows, data: &hash, checkpoint_every };
    let threads = args.threads.map_or_else(n_threads, NonZeroUsize::get);
    let described = format!(
        "{}; held out {} of {}{}",
        args.data.described(),
        held_out.share,
        held_out.entity.as_deref().unwrap_or("the rows, one by one: no entity is known"),
        held_out.item.as_deref().map(|item| format!(" and of {item}")).unwrap_or_default()
    );
    all(common, &runs, threads, &described)
}

/// By what rows are held out together. Rows of one user are alike, and with one vector a user the same.
fn entity(args: &Args, dataset: &Dataset) -> Option<String> {
    let named = args.entity.as_ref().or(args.data.by.as_ref());
    // A recording without entities has the column, and nothing in it.
    let usual = || dataset.usual_entity().filter(|(_, column)| column.keys().is_ok()).map(|(name, _)| name.to_owned());
    named.cloned().or_else(usual)
}

/// Runs side by side, as many as there are threads; the threads that are left over help inside.
fn all(common: Common<'_>, runs: &[(PathBuf, Recipe)], threads: usize, described: &str) -> anyhow::Result<Vec<(PathBuf, Run)>> {
    let bars = MultiProgress::new();
    let one = |(folder, recipe): &(PathBuf, Recipe), threads: usize| -> anyhow::Result<(PathBuf, Run)> {
        if let Some(before) = run::finished(folder, recipe, common.data)? {
            return Ok((folder.clone(), Run::Before(before)));
        }
        let say = Say::new(&bars, recipe);
        let report = run::train(common, recipe, folder, threads, described, &|step, of, point| say.point(step, of, point));
        say.bar.finish_and_clear();
        report.with_context(|| folder.display().to_string()).map(|report| (folder.clone(), Run::Now(Box::new(report))))
    };
    let beside = threads.min(runs.len());
    if beside <= 1 {
        return runs.iter().map(|run| one(run, threads)).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done: Vec<Mutex<Option<anyhow::Result<_>>>> = runs.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                while let Some((run, place)) = {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    runs.get(at).zip(done.get(at))
                } {
                    let report = one(run, threads / beside);
                    *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(report);
                }
            });
        }
    });
    let answer = |place: Mutex<Option<_>>| place.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).context("a run was lost");
    done.into_iter().map(|place| answer(place)?).collect()
}

fn recipes(args: &Args, d_in: usize) -> anyhow::Result<Vec<Recipe>> {
    let sizes: Vec<usize> = match args.d_sae.as_slice() {
        [] => args.scale.iter().map(|scale| scale.get() * d_in).collect(),
        sizes => sizes.iter().map(|size| size.get()).collect(),
    };
    let n = args.k.len().max(sizes.len());
    let fits = |len: usize| len == 1 || len == n;
    ensure!(
        fits(args.k.len()) && fits(sizes.len()),
        "--k has {} values, --scale or --d-sae {}: give one for each, or one for all",
        args.k.len(),
        sizes.len()
    );
    let mut recipes = Vec::new();
    for at in 0..n {
        let (k, d_sae) = (args.k[at % args.k.len()].get(), sizes[at % sizes.len()]);
        ensure!(k <= d_sae, "k = {k} of {d_sae} latents: expected at most as many");
        for seed in &args.seed {
            let mut recipe = Recipe::new(d_in, d_sae, k, *seed);
            recipe.epochs = args.epochs.map_or(recipe.epochs, NonZeroUsize::get);
            recipe.batch = args.batch.map_or(recipe.batch, NonZeroUsize::get);
            recipe.learning_rate = args.learning_rate.unwrap_or(recipe.learning_rate);
            recipes.push(recipe);
        }
    }
    Ok(recipes)
}

fn folder(args: &Args, recipe: &Recipe) -> PathBuf {
    args.out.join(format!("k{}_d{}_seed{}", recipe.k, recipe.d_sae, recipe.seed))
}

/// A bar on a terminal, a line every few seconds elsewhere.
struct Say {
    bar: ProgressBar,
    name: String,
    lines: Lines,
}

impl Say {
    fn new(bars: &MultiProgress, recipe: &Recipe) -> Self {
        let style =
            ProgressStyle::with_template("{prefix} {bar:30} {percent}% {eta} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let name = format!("k {} of {} seed {}", recipe.k, recipe.d_sae, recipe.seed);
        let bar = bars.add(ProgressBar::new(1).with_style(style).with_prefix(name.clone()));
        Self { bar, name, lines: Lines::since(Instant::now()) }
    }

    fn point(&self, step: u64, of: u64, point: Option<&CurvePoint>) {
        let message = point.map_or_else(String::new, |point| format!("FVU {:.4}, dead {}", point.train_fvu, point.dead));
        if self.bar.is_hidden() && self.lines.is_due(Instant::now()) {
            eprintln!("{}: step {step} of {of}, {message}", self.name);
        }
        self.bar.set_length(of);
        self.bar.set_position(step);
        self.bar.set_message(message);
    }
}

fn print(out: &mut impl Write, folder: &Path, report: &RunReport) -> std::io::Result<()> {
    writeln!(out, "{}: {} latents, k = {}, seed {}", folder.display(), report.recipe.d_sae, report.recipe.k, report.recipe.seed)?;
    let by_entity = if report.held_out.entity.is_some() { "held-out entities" } else { "held-out rows" };
    let parts = [("trained on", Some(report.train)), (by_entity, report.held_out_entities), ("held-out items", report.held_out_items)];
    for (name, measured) in parts.into_iter().filter_map(|(name, measured)| Some((name, measured?))) {
        let q = measured.quality;
        writeln!(out, "  {name:<18} {:>8} rows  FVU {:.4}  cosine {:.4}  dead {:.1} %", q.rows, q.fvu, q.cosine, 100.0 * measured.dead)?;
    }
    let t = &report.with_threshold;
    writeln!(out, "  threshold/ has {:.4} instead of TopK: L0 {:.2}, FVU {:.4}", report.threshold, t.l0, t.fvu)?;
    writeln!(out, "  {:.1} s, {:.0} rows a second", report.seconds, report.rows_trained as f64 / report.seconds.max(1e-9))
}
