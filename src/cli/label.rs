//! `recsae label`: propose names for latents from the tags of the items they go with.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::cli::case_args::CaseArgs;
use crate::cli::llm_args::LlmArgs;
use crate::cli::named_sae_args::NamedSaeArgs;
use crate::cli::progress::Progress;
use crate::cli::{Outcome, UsageError};
use crate::sae::hold_out::HoldOut;
use crate::workshop::label::llm::template::EXPLAIN;
use crate::workshop::label::naming::{NoName, Rule};
use crate::workshop::label::propose::with_proposals;
use crate::workshop::label::report::LabelReport;
use crate::workshop::label::{self, Labelling, llm};
use crate::workshop::named_sae::NamedSae;

/// Arguments of `recsae label`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae label --sae bundles/v12 --embeddings sasrec.embeddings.npy --fields sasrec.events.parquet --items items.parquet
  recsae label --sae sae.safetensors --concepts concepts.json --embeddings item_embeddings.npy --evidence vectors \\
      --items items.parquet --tags genres,year:decade,title:words --json
  recsae label --sae bundles/v12 ... --llm https://host/v1 --llm-model M --llm-key-file key.txt --llm-answers answers.jsonl

A latent without a clear tag gets no label. The users and items held out are kept for `recsae verify`.")]
pub struct Args {
    #[command(flatten)]
    sae: NamedSaeArgs,
    #[command(flatten)]
    cases: CaseArgs,
    #[command(flatten)]
    llm: LlmArgs,
    /// Ask about latents that tags have named too; the model's name is then the proposal
    #[arg(long, requires = "llm")]
    llm_all: bool,
    /// Share of users held out for `recsae verify`
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    hold_out_entities: f64,
    /// Share of items held out for `recsae verify`
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    hold_out_items: f64,
    /// Another number, other users and items held out
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Largest share of false names expected, over all pairs of latent and tag
    #[arg(long, default_value_t = 0.01)]
    q: f64,
    /// Least lift: P(tag | active) / P(tag)
    #[arg(long, value_name = "LIFT", default_value_t = 1.5)]
    min_lift: f64,
    /// Least precision: P(tag | active)
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    min_precision: f64,
    /// Least cases of a latent
    #[arg(long, value_name = "N", default_value_t = 10)]
    min_cases: usize,
    /// Times the tags are dealt anew among the items, to show how many names chance gives
    #[arg(long, value_name = "N", default_value_t = 10)]
    shuffles: usize,
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

/// Labels, and writes the catalogue.
///
/// # Errors
/// A file cannot be read or does not fit, or the catalogue cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (report, place) = labelled(args).map_err(|error| UsageError(format!("{error:#}")))?;
    if let Some(path) = &args.report {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        report.print(&mut out)?;
        match place {
            Some(path) => writeln!(out, "proposals written to {}; test them with `recsae verify`", path.display())?,
            None => writeln!(out, "nothing written")?,
        }
    }
    Ok(Outcome::Done)
}

fn labelled(args: &Args) -> anyhow::Result<(LabelReport, Option<PathBuf>)> {
    for (name, share) in [("--hold-out-entities", args.hold_out_entities), ("--hold-out-items", args.hold_out_items)] {
        ensure!((0.0..1.0).contains(&share), "{name}: expected a share from 0 to below 1, found {share}");
    }
    ensure!(args.q > 0.0 && args.q < 1.0, "--q: expected a share between 0 and 1, found {}", args.q);
    ensure!((0.0..=1.0).contains(&args.min_precision), "--min-precision: expected a share from 0 to 1, found {}", args.min_precision);
    ensure!(args.min_lift.is_finite() && args.min_lift >= 0.0, "--min-lift: expected a number from 0 up, found {}", args.min_lift);
    let rule = Rule { q: args.q, min_lift: args.min_lift, min_precision: args.min_precision, min_cases: args.min_cases, ..Rule::default() };
    let hold_out = HoldOut { entities: args.hold_out_entities, items: args.hold_out_items, seed: args.seed };
    let sae = args.sae.open_or_new()?;
    ensure!(
        args.dry_run || sae.has_place(),
        "this SAE is no bundle: say where its catalogue is to be with --concepts FILE.json, or --dry-run"
    );
    let (items, dataset) = args.cases.read()?;
    let progress = Progress::of(dataset.n_rows(), "rows");
    let gathered = label::gather::gather(&sae.weights, &dataset, &items, &args.cases.request(), &|done| progress.at(done));
    progress.finish();
    let gathered = gathered?;
    let progress = Progress::of(args.shuffles, "deals of the tags");
    let labelling = label::label(&gathered, &items, &hold_out, &rule, args.shuffles, &|done| progress.at(done));
    progress.finish();
    let mut report = report(args, &sae, &labelling, &gathered, &items, hold_out, rule);
    let mut catalogue = with_proposals(&sae.catalogue, &labelling, &items, gathered.n_rows, &gathered.active_rows);
    catalogue.hold_out = Some(hold_out);
    if let Some(model) = args.llm.model() {
        let questions = llm::questions(&labelling, &items, &args.llm.template(EXPLAIN)?, model, args.llm_all)?;
        let answers = args.llm.answers(&questions)?;
        report.llm = Some(llm::propose_all(&mut catalogue, &labelling, &items, &questions, &answers));
    }
    let place = if args.dry_run { None } else { Some(sae.save(&catalogue)?) };
    Ok((report, place))
}

fn report(
    args: &Args,
    sae: &NamedSae,
    labelling: &Labelling,
    gathered: &label::gather::Gathered,
    items: &label::items::Items,
    hold_out: HoldOut,
    rule: Rule,
) -> LabelReport {
    let labels = LabelReport::lines(labelling, &rule);
    let mut unnamed: std::collections::BTreeMap<NoName, usize> = std::collections::BTreeMap::new();
    labelling.naming.latents.iter().filter_map(|latent| latent.name.err()).for_each(|why| *unnamed.entry(why).or_default() += 1);
    let n_tags = |source: &String| labelling.tags.tags().iter().filter(|tag| tag.source == *source).count();
    LabelReport {
        fingerprint: sae.catalogue.fingerprint.clone(),
        n_latents: labelling.cases.n_latents(),
        n_rows: gathered.n_rows,
        n_cases: labelling.cases.len(),
        n_repeated: gathered.cases.n_repeated(),
        n_items: labelling.cases.item_counts(items.len()).iter().filter(|count| **count > 0).count(),
        n_unknown_items: gathered.n_unknown_items,
        evidence: args.cases.evidence,
        hold_out,
        rule,
        sources: items.sources().iter().map(|source| (source.clone(), n_tags(source))).collect(),
        n_pairs: labelling.naming.n_pairs,
        n_named: labels.len(),
        unnamed,
        llm: None,
        by_source: LabelReport::summaries(&labels),
        shuffled: labelling.shuffled.clone(),
        labels,
    }
}
