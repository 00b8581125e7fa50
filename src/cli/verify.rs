//! `recsae verify`: test labels on users and items they were not made from.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::cli::case_args::CaseArgs;
use crate::cli::llm_args::LlmArgs;
use crate::cli::named_sae_args::NamedSaeArgs;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::workshop::label::gather::gather;
use crate::workshop::label::llm::template::PREDICT;
use crate::workshop::sae_file;
use crate::workshop::verify::report::VerifyReport;
use crate::workshop::verify::{asked, verify, with_tests};

/// Arguments of `recsae verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  recsae verify --sae bundles/v12 --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --items items.parquet \\
      --other-sae run-seed-2/
  recsae verify --sae bundles/v12 ... --llm https://host/v1 --llm-model M --llm-key-file key.txt --llm-answers answers.jsonl

With --llm also labels in free words are tested: the model is asked of each case whether the label fits its items. A label is verified when the lower end of the 95 % interval of its balanced accuracy is at least 0.65 against random
cases and above 0.5 against cases of the nearest latents, with 50 cases a class; weak when it beats a coin; else unverified.")]
pub struct Args {
    #[command(flatten)]
    sae: NamedSaeArgs,
    #[command(flatten)]
    cases: CaseArgs,
    /// An SAE of another seed, for the stability of latents; may be repeated
    #[arg(long, value_name = "PATH")]
    other_sae: Vec<PathBuf>,
    #[command(flatten)]
    llm: LlmArgs,
    /// Cases of each class (active, random, nearest) that the model is asked about, of a label that is no tag
    #[arg(long, value_name = "N", default_value_t = 50, requires = "llm")]
    llm_cases: usize,
    /// Another number, another sample of cases
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Tests, and writes the results into the catalogue.
///
/// # Errors
/// A file cannot be read or does not fit, or the catalogue cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (report, place) = verified(args).map_err(|error| UsageError(format!("{error:#}")))?;
    if let Some(path) = &args.report {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        report.print(&mut out)?;
        match place {
            Some(path) => writeln!(out, "results written to {}", path.display())?,
            None => writeln!(out, "nothing written")?,
        }
    }
    Ok(Outcome::Done)
}

fn verified(args: &Args) -> anyhow::Result<(VerifyReport, Option<PathBuf>)> {
    let sae = args.sae.open()?;
    let others =
        args.other_sae.iter().map(|path| sae_file::open_or(path, sae.weights.spec().selection)).collect::<anyhow::Result<Vec<_>>>()?;
    let (items, dataset) = args.cases.read()?;
    let progress = Progress::of(dataset.n_rows(), "rows");
    let gathered = gather(&sae.weights, &dataset, &items, &args.cases.request(), &|done| progress.at(done));
    progress.finish();
    let mut tests = verify(&sae.catalogue, &sae.weights, &others, &gathered?, &items, args.seed)?;
    if let Some(model) = args.llm.model() {
        let questions = asked::questions(&mut tests, &items, &args.llm.template(PREDICT)?, model, args.llm_cases)?;
        let answers = args.llm.answers(&questions)?;
        asked::take_in(&mut tests, &answers)?;
    }
    let catalogue = with_tests(&sae.catalogue, &tests);
    let place = if args.dry_run { None } else { Some(sae.save(&catalogue)?) };
    Ok((VerifyReport::new(&sae.catalogue.fingerprint, tests), place))
}
