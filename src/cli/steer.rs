//! `recsae steer`: plan edits of latents, measure what they do, stream steered vectors.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::cli::dataset_args::DatasetArgs;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError, steer_plan, steer_run, steer_table};
use crate::sae::latent::LatentId;
use crate::workshop::dataset::table::Table;
use crate::workshop::dataset::{self, Dataset, DatasetRequest};
use crate::workshop::evaluate::ranking::{RankingColumns, cases};
use crate::workshop::named_sae::NamedSae;
use crate::workshop::sae_file;
use crate::workshop::steer::concepts::Tags;
use crate::workshop::steer::dose::{Scene, World};
use crate::workshop::steer::pull::SoftLists;
use crate::workshop::steer::request::SteerRequest;
use crate::workshop::steer::strength::Strength;
use crate::workshop::steer::{SteerReport, accepted, evaluate, page, scene, strengths};

/// Arguments of `recsae steer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: SteerAction,
}

#[derive(Debug, clap::Subcommand)]
enum SteerAction {
    /// Write a plan of edits
    Plan(Box<steer_plan::Args>),
    /// Measure what steering by every tag of the items does: dose response, controls, cost
    Evaluate(Box<EvaluateArgs>),
    /// Stream steered vectors to another topic; the original is not touched
    Run(steer_run::Args),
}

/// Arguments of `recsae steer evaluate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  recsae steer evaluate --sae run/ --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --entity user_id \\
      --target target_item --history history --choose split=dev --report split=test --items sasrec.item_embeddings.npy \\
      --catalogue items.parquet --item-column item_id --tags genres --popularity n_events --html steering.html
  The same with --accepted --concepts names.json: only tags that reviewers accepted a concept for, by its latents")]
struct EvaluateArgs {
    /// The SAE: a bundle, a run folder of `recsae train`, or .safetensors
    #[arg(long, value_name = "PATH")]
    sae: PathBuf,
    #[command(flatten)]
    data: DatasetArgs,
    /// Rows on which latents and doses are chosen
    #[arg(long, value_name = "COLUMN=V,V")]
    choose: String,
    /// Rows on which their effect is reported
    #[arg(long, value_name = "COLUMN=V,V")]
    report: String,
    /// Column that names the user
    #[arg(long, value_name = "COLUMN")]
    entity: String,
    /// Column of the item chosen next
    #[arg(long, value_name = "COLUMN")]
    target: String,
    /// Column of the items met before
    #[arg(long, value_name = "COLUMN")]
    history: Option<String>,
    /// Vectors of the items, .npy [n, d]
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// Row of --items that is no item
    #[arg(long, value_name = "ROW", default_value = "0", conflicts_with = "no_padding")]
    padding: usize,
    /// Every row of --items is an item
    #[arg(long)]
    no_padding: bool,
    /// Table of the items (.parquet)
    #[arg(long, value_name = "FILE")]
    catalogue: PathBuf,
    /// Its column with the row of --items
    #[arg(long, value_name = "COLUMN", default_value = "item_id")]
    item_column: String,
    /// Its column of tags
    #[arg(long, value_name = "COLUMN")]
    tags: String,
    /// Only tags with an accepted concept, by that concept's latents; the others are listed as without
    #[arg(long)]
    accepted: bool,
    /// Catalogue of the SAE's concepts, for --accepted [default: the bundle's own]
    #[arg(long, value_name = "FILE.json", requires = "accepted")]
    concepts: Option<PathBuf>,
    /// Its column that says how popular an item is: recipes that take popularity back are tried too
    #[arg(long, value_name = "COLUMN")]
    popularity: Option<String>,
    /// Latents edited together, at most: how many is chosen with the dose
    #[arg(long, default_value_t = 16)]
    latents: usize,
    /// A dose may cost NDCG down to this share
    #[arg(long, default_value_t = 0.9)]
    keep_ndcg: f64,
    /// Largest change of a vector, over its length
    #[arg(long)]
    cap: Option<f32>,
    /// Places of a recommendation
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// Draws controls and resamples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the report as one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Plans, evaluates or streams.
///
/// # Errors
/// A file cannot be read or does not fit, or a part failed.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let usage = |error: anyhow::Error| UsageError(format!("{error:#}"));
    match &args.action {
        SteerAction::Plan(args) => return steer_plan::run(args),
        SteerAction::Evaluate(args) => {
            let report = evaluated(args).map_err(usage)?;
            if let Some(path) = &args.html {
                let name = args.sae.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                std::fs::write(path, page::steer_page(&name, &report)).with_context(|| path.display().to_string())?;
            }
            let mut out = std::io::stdout().lock();
            if args.json {
                writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
            } else {
                steer_table::print(&mut out, &report)?;
            }
        }
        SteerAction::Run(args) => return steer_run::run(args),
    }
    Ok(Outcome::Done)
}

fn evaluated(args: &EvaluateArgs) -> anyhow::Result<SteerReport> {
    ensure!(args.top > 0 && args.latents > 0, "--top and --latents: expected at least 1");
    ensure!(args.keep_ndcg.is_finite() && args.keep_ndcg >= 0.0, "--keep-ndcg: expected a share such as 0.9, found {}", args.keep_ndcg);
    if let Some(cap) = args.cap {
        ensure!(cap.is_finite() && cap > 0.0, "--cap: expected a number above zero, found {cap}");
    }
    let (sae, catalogue) = if args.accepted {
        let named = NamedSae::open(&args.sae, None, args.concepts.as_deref())?;
        (named.weights, Some(named.catalogue))
    } else {
        (sae_file::open(&args.sae, None)?, None)
    };
    let items = dataset::matrix(&args.items)?;
    let padding = (!args.no_padding).then_some(args.padding);
    ensure!(padding.is_none_or(|row| row < items.nrows()), "--padding {}: --items has {} rows", args.padding, items.nrows());
    let columns = RankingColumns { entity: args.entity.clone(), target: args.target.clone(), history: args.history.clone(), order: None };
    let rows = |filter: &str| -> anyhow::Result<Scene> {
        let (column, values) = filter.split_once('=').with_context(|| format!("{filter}: expected COLUMN=VALUE,VALUE"))?;
        let mut request: DatasetRequest = args.data.request()?;
        request.filters.push((column.to_owned(), values.split(',').map(str::to_owned).collect()));
        let dataset = Dataset::open(&request)?;
        let cases = cases(&dataset, &columns, items.nrows())?;
        scene(&sae, &dataset, cases, &items, padding, args.top)
    };
    let (choose, report) = (rows(&args.choose).context("--choose")?, rows(&args.report).context("--report")?);
    let table = Table::read(&args.catalogue)?;
    let tags = Tags::read(&table, &args.item_column, &args.tags, items.nrows())?;
    let accepted = catalogue.map(|catalogue| accepted(&catalogue, &args.tags, &tags)).transpose()?;
    let popularity = args.popularity.as_deref().map(|name| popularity(&table, &args.item_column, name, items.nrows())).transpose()?;
    let strength = strengths(&choose.activations, sae.spec().d_sae.get());
    let of = |latent: LatentId| strength.get(latent.index()).copied().unwrap_or(Strength::default());
    let world = World { sae: &sae, items: &items, padding, top: args.top, strength: &of, cap: args.cap, seed: args.seed };
    let request = SteerRequest {
        world,
        choose: &choose,
        soft: &SoftLists::new(choose.vectors.view(), &items, padding, &choose.cases, args.top),
        report: &report,
        tags: &tags,
        accepted: accepted.as_ref(),
        popularity: popularity.as_deref(),
        most_latents: args.latents,
        keep_ndcg: args.keep_ndcg,
    };
    let progress = Progress::of(tags.items.len(), "tags");
    let report = evaluate(&request, &|done| progress.at(done));
    progress.finish();
    report
}

fn popularity(table: &Table, item: &str, name: &str, n_items: usize) -> anyhow::Result<Vec<f64>> {
    let of = |name: &str| table.column(name).with_context(|| format!("no column {name:?}; there are {}", table.names().join(", ")));
    let mut popularity = vec![0.0; n_items];
    for (item, value) in of(item)?.iter().zip(of(name)?) {
        let place = item.as_u64().and_then(|item| usize::try_from(item).ok()).and_then(|item| popularity.get_mut(item));
        *place.with_context(|| format!("{item} is no item"))? =
            value.as_f64().with_context(|| format!("{name} of item {item}: expected a number"))?;
    }
    Ok(popularity)
}
