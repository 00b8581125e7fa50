//! `recsae concepts`: find concepts by words, and group them into families.

use std::io::Write;

use serde_json::json;

use crate::cli::case_args::CaseArgs;
use crate::cli::named_sae_args::NamedSaeArgs;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::workshop::families::grouping::{Grouping, group};
use crate::workshop::families::naming::with_families;
use crate::workshop::families::search::search;
use crate::workshop::label::gather::gather;

/// Arguments of `recsae concepts`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Find concepts by words, best first
    Search(SearchArgs),
    /// Group latents that mean alike or fire together, and write the families into the catalogue
    Families(Box<FamiliesArgs>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  recsae concepts search --sae bundles/v12 space opera\n\nExit 1 when nothing is found.")]
struct SearchArgs {
    /// What to look for; the last word may be the beginning of one
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// Most hits
    #[arg(short, long, default_value_t = 20)]
    n: usize,
    /// Print the hits as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  recsae concepts families --sae bundles/v12 --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --items items.parquet

A family that is found again keeps its id; one that is gone leaves its id empty.")]
struct FamiliesArgs {
    #[command(flatten)]
    sae: NamedSaeArgs,
    #[command(flatten)]
    cases: CaseArgs,
    /// Least mean similarity within a family: the larger of decoder cosine and co-activation
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    least: f32,
    /// Most members of a family
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_members: usize,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the families as JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of the two.
///
/// # Errors
/// A file cannot be read or does not fit, or the catalogue cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Search(args) => run_search(args),
        Action::Families(args) => run_families(args),
    }
}

fn run_search(args: &SearchArgs) -> anyhow::Result<Outcome> {
    let sae = args.sae.open().map_err(usage)?;
    let hits = search(&sae.catalogue, &args.words.join(" "), args.n);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&hits)?)?;
    } else {
        for hit in &hits {
            let rate = hit.rate.map_or_else(|| "–".to_owned(), |rate| format!("{:.2} %", 100.0 * rate));
            writeln!(out, "{:>6}  {:<32} {:<11} {rate:>8}  {}", hit.latent.0, hit.name, hit.verification.kind(), hit.items.join(" · "))?;
        }
    }
    Ok(if hits.is_empty() { Outcome::No } else { Outcome::Done })
}

fn run_families(args: &FamiliesArgs) -> anyhow::Result<Outcome> {
    let sae = args.sae.open_or_new().map_err(usage)?;
    let (items, dataset) = args.cases.read().map_err(usage)?;
    let progress = Progress::of(dataset.n_rows(), "rows");
    let gathered = gather(&sae.weights, &dataset, &items, &args.cases.request(), &|done| progress.at(done)).map_err(usage)?;
    progress.finish();
    let Some(w_dec) = sae.weights.w_dec() else { return Err(UsageError("the SAE has no decoder".into()).into()) };
    let grouping = Grouping { least: args.least, max_members: args.max_members, ..Grouping::default() };
    let groups = group(w_dec, &gathered.cases, &grouping);
    let catalogue = with_families(&sae.catalogue, &groups);
    let place = if args.dry_run { None } else { Some(sae.save(&catalogue).map_err(usage)?) };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "families": catalogue.families, "written": place }))?)?;
        return Ok(Outcome::Done);
    }
    for family in catalogue.families.iter().filter(|family| !family.latents.is_empty()) {
        let members: Vec<String> = family.latents.iter().map(|latent| latent.0.to_string()).collect();
        writeln!(out, "family:{:<5} {:<32} {}", family.id, family.name, members.join(" "))?;
    }
    let n_members: usize = groups.iter().map(Vec::len).sum();
    let where_to = place.map_or_else(|| "nothing written".into(), |path| format!("written to {}", path.display()));
    writeln!(out, "{} families of {n_members} latents; {where_to}", groups.len())?;
    Ok(Outcome::Done)
}

fn usage(error: anyhow::Error) -> anyhow::Error {
    UsageError(format!("{error:#}")).into()
}
