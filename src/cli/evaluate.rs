//! `recsae evaluate`: what an SAE keeps of the vectors and of the recommendations.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::dataset_args::DatasetArgs;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::sae::weights::Selection;
use crate::workshop::dataset::{self, Dataset};
use crate::workshop::evaluate::ranking::{Catalogue, RankingColumns, cases};
use crate::workshop::evaluate::{EvaluateRequest, Evaluation, evaluate, page};
use crate::workshop::sae_file;

/// Arguments of `recsae evaluate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae evaluate --sae sae.safetensors --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --where split=dev,test
  recsae evaluate --sae run/ --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --where split=test \\
      --items sasrec.item_embeddings.npy --entity user_id --target target_item --history history --html report.html")]
pub struct Args {
    /// The SAE: a bundle, a run folder of `recsae train`, or .safetensors
    #[arg(long, value_name = "PATH")]
    sae: PathBuf,
    /// Active latents a row, where the file does not say
    #[arg(long)]
    k: Option<NonZeroUsize>,
    #[command(flatten)]
    data: DatasetArgs,
    /// Column by whose values the rows are also evaluated apart; may be repeated
    #[arg(long, value_name = "COLUMN")]
    segment: Vec<String>,
    /// Column that names the user: values per user, and whose earlier items are masked
    #[arg(long, value_name = "COLUMN")]
    entity: Option<String>,
    /// Vectors of the items, .npy [n, d]: recommendations before and after are compared
    #[arg(long, value_name = "FILE", requires_all = ["entity", "target"])]
    items: Option<PathBuf>,
    /// Column of the item chosen next
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Column of the items met before
    #[arg(long, value_name = "COLUMN")]
    history: Option<String>,
    /// Column by which a user's rows are ordered [default: as in the file]
    #[arg(long, value_name = "COLUMN")]
    order: Option<String>,
    /// Row of --items that is no item
    #[arg(long, value_name = "ROW", default_value = "0", conflicts_with = "no_padding")]
    padding: usize,
    /// Every row of --items is an item
    #[arg(long)]
    no_padding: bool,
    /// Places of a recommendation
    #[arg(long, default_value = "10")]
    top: NonZeroUsize,
    /// Write the report as one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the result, with values per user, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Evaluates and writes what was asked for.
///
/// # Errors
/// A file cannot be read or does not fit, or the report cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let evaluation = evaluated(args).map_err(|error| UsageError(format!("{error:#}")))?;
    let name = args.sae.file_name().map_or_else(|| args.sae.display().to_string(), |name| name.to_string_lossy().into_owned());
    if let Some(path) = &args.html {
        write(path, page::evaluation_page(&name, &args.data.described(), &evaluation).as_bytes())?;
    }
    if let Some(path) = &args.out {
        write(path, &serde_json::to_vec_pretty(&evaluation)?)?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&evaluation)?)?;
    } else {
        print(&mut out, &evaluation)?;
    }
    Ok(Outcome::Done)
}

fn evaluated(args: &Args) -> anyhow::Result<Evaluation> {
    let sae = sae_file::open(&args.sae, args.k.map(Selection::TopK))?;
    let dataset = Dataset::open(&args.data.request()?)?;
    let ranking = match (&args.items, &args.entity, &args.target) {
        (Some(items), Some(entity), Some(target)) => {
            let catalogue = Catalogue::new(dataset::matrix(items)?, (!args.no_padding).then_some(args.padding), dataset.d_in())?;
            let columns =
                RankingColumns { entity: entity.clone(), target: target.clone(), history: args.history.clone(), order: args.order.clone() };
            let cases = cases(&dataset, &columns, catalogue.n_items())?;
            Some((catalogue, cases))
        }
        _ => None,
    };
    let request = EvaluateRequest { segments: args.segment.clone(), entity: args.entity.clone(), ranking, top: args.top.get() };
    let progress = Progress::of(dataset.n_rows(), "rows");
    let evaluation = evaluate(&sae, &dataset, &request, &|done| progress.at(done));
    progress.finish();
    evaluation
}

fn print(out: &mut impl Write, of: &Evaluation) -> std::io::Result<()> {
    let q = &of.quality;
    writeln!(out, "{} rows, {} latents, {}", q.rows, of.sae.d_sae, of.sae.selection)?;
    writeln!(
        out,
        "FVU {:.4}   explained variance {:.4}   cosine {:.4}   norm ratio {:.4}   L0 {:.2}",
        q.fvu, q.explained_variance, q.cosine, q.norm_ratio, q.l0
    )?;
    let l = &of.latents;
    writeln!(
        out,
        "dead {:.1} % of {} latents over {} rows; {:.1} % fire in > 1 %, {:.1} % in > 10 %",
        100.0 * l.dead,
        of.sae.d_sae,
        l.rows,
        100.0 * l.above_1_percent,
        100.0 * l.above_10_percent
    )?;
    if let Some(r) = &of.ranking {
        writeln!(
            out,
            "NDCG@{0} {1:.4} -> {2:.4}   HR@{0} {3:.4} -> {4:.4}   overlap {5:.4}",
            r.top, r.ndcg_before, r.ndcg_after, r.hit_rate_before, r.hit_rate_after, r.overlap
        )?;
    }
    for (name, part) in &of.segments {
        writeln!(out, "{name}: {} rows, FVU {:.4}, cosine {:.4}", part.quality.rows, part.quality.fvu, part.quality.cosine)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
