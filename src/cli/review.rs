//! `recsae review`: people's word on labels, in the terminal or on a sheet.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::cli::named_sae_args::NamedSaeArgs;
use crate::cli::{Outcome, UsageError};
use crate::clock::{Clock, SystemClock};
use crate::sae::concept::{ConceptCatalog, LabelState};
use crate::workshop::named_sae::NamedSae;
use crate::workshop::review::agreement::agreements;
use crate::workshop::review::carry_over::carry_over;
use crate::workshop::review::decide::{Decision, decide};
use crate::workshop::review::sheet::{Entry, decisions, parse, sheet};

/// Arguments of `recsae review`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae review ask --sae bundles/v12 --reviewer ann
  recsae review sheet --sae bundles/v12 --out sheet.json
  recsae review apply --sae bundles/v12 --reviewer bob sheet.json
  recsae review agreement --sae bundles/v12
  recsae review carry-over --from bundles/v11 --sae bundles/v12")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Go through the undecided labels one by one
    Ask(AskArgs),
    /// Write the undecided labels with their evidence as JSON, to be decided elsewhere
    Sheet(SheetArgs),
    /// Take in the decisions of a sheet: all of them, or none if one does not fit
    Apply(ApplyArgs),
    /// Cohen's kappa of every two reviewers
    Agreement(AgreementArgs),
    /// Take labels of an earlier SAE over as proposals, where decoder rows match
    CarryOver(CarryOverArgs),
}

#[derive(Debug, clap::Args)]
struct AskArgs {
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// Your name, which stands with every decision
    #[arg(long, env = "RECSAE_REVIEWER")]
    reviewer: String,
}

#[derive(Debug, clap::Args)]
struct SheetArgs {
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// Decided labels too
    #[arg(long)]
    all: bool,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The sheet, with `decision` filled in: accepted, edited (with `edited`), rejected, needs_data
    sheet: PathBuf,
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// Who decided
    #[arg(long, env = "RECSAE_REVIEWER")]
    reviewer: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct AgreementArgs {
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct CarryOverArgs {
    #[command(flatten)]
    sae: NamedSaeArgs,
    /// The earlier SAE: a bundle, or weights with --from-concepts
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Catalogue of the earlier SAE [default: its bundle's]
    #[arg(long, value_name = "FILE.json")]
    from_concepts: Option<PathBuf>,
    /// Least cosine of two decoder rows
    #[arg(long, value_name = "COSINE", default_value_t = 0.9)]
    least: f32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
///
/// # Errors
/// A file cannot be read or written, or a decision does not fit the catalogue.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let outcome = match &args.action {
        Action::Ask(args) => ask(args, &mut std::io::stdin().lock(), &mut std::io::stdout().lock()),
        Action::Sheet(args) => run_sheet(args),
        Action::Apply(args) => run_apply(args),
        Action::Agreement(args) => run_agreement(args),
        Action::CarryOver(args) => run_carry_over(args),
    };
    outcome.map_err(|error| UsageError(format!("{error:#}")).into())
}

/// Asks for every undecided label; each answer is written at once, so that leaving loses nothing.
fn ask(args: &AskArgs, answers: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let sae = args.sae.open()?;
    let mut catalogue = sae.catalogue.clone();
    let entries = sheet(&catalogue, false).entries;
    let n = entries.len();
    for (at, entry) in entries.into_iter().enumerate() {
        show(&entry, at + 1, n, out)?;
        let Some(decision) = answer(&entry, &args.reviewer, answers, out)? else { break };
        if decision.state == LabelState::Proposed {
            continue;
        }
        let state = decide(&mut catalogue, &decision)?;
        catalogue.revision += 1;
        sae.save(&catalogue)?;
        writeln!(out, "  {}", state_words(state))?;
    }
    Ok(Outcome::Done)
}

fn show(entry: &Entry, at: usize, n: usize, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "\n[{at}/{n}] latent {}: {}  ({})", entry.latent.0, entry.label, state_words(entry.state))?;
    if let Some(made_from) = &entry.made_from {
        writeln!(
            out,
            "  from {}: precision {:.2}, recall {:.2}, lift {:.1}, {} cases",
            made_from.source, made_from.precision, made_from.recall, made_from.lift, made_from.n_active
        )?;
    }
    if let Some(test) = &entry.tested {
        let [low, high] = test.interval;
        writeln!(out, "  held out: {}, balanced accuracy {:.2} ({low:.2} to {high:.2})", test.status.kind(), test.balanced_accuracy)?;
    }
    writeln!(out, "  items: {}", entry.top_items.join(" · "))?;
    Ok(())
}

/// A decision; `proposed` to go on without one; `None` to stop.
fn answer(entry: &Entry, reviewer: &str, answers: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Option<Decision>> {
    loop {
        write!(out, "  a accept · e NEW LABEL · r reject · d needs data · s skip · q quit > ")?;
        out.flush()?;
        let mut line = String::new();
        if answers.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let state = match word {
            "a" => LabelState::Accepted,
            "e" if !rest.trim().is_empty() => LabelState::Edited,
            "r" => LabelState::Rejected,
            "d" => LabelState::NeedsData,
            "s" => LabelState::Proposed,
            "q" => return Ok(None),
            _ => {
                writeln!(out, "  expected a, e NEW LABEL, r, d, s or q")?;
                continue;
            }
        };
        let edited = (state == LabelState::Edited).then(|| rest.trim().to_owned());
        return Ok(Some(Decision {
            latent: entry.latent,
            reviewer: reviewer.to_owned(),
            at_ms: SystemClock.now_ms(),
            state,
            seen: entry.label.clone(),
            evidence: entry.evidence.clone(),
            note: if edited.is_some() { String::new() } else { rest.trim().to_owned() },
            edited,
        }));
    }
}

fn run_sheet(args: &SheetArgs) -> anyhow::Result<Outcome> {
    let sae = args.sae.open()?;
    let sheet = sheet(&sae.catalogue, args.all);
    let text = serde_json::to_string_pretty(&sheet)?;
    match &args.out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(std::io::stdout().lock(), "{} labels written to {}", sheet.entries.len(), path.display())?;
        }
        None => writeln!(std::io::stdout().lock(), "{text}")?,
    }
    Ok(Outcome::Done)
}

fn run_apply(args: &ApplyArgs) -> anyhow::Result<Outcome> {
    let sae = args.sae.open()?;
    let text = std::fs::read_to_string(&args.sheet).with_context(|| args.sheet.display().to_string())?;
    let decisions = decisions(&parse(&text)?, &sae.catalogue, &args.reviewer, SystemClock.now_ms())?;
    ensure!(!decisions.is_empty(), "{}: no entry has a decision", args.sheet.display());
    let (catalogue, states) = applied(&sae, &decisions)?;
    let path = sae.save(&catalogue)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let states: Vec<_> = states.iter().map(|(latent, state)| json!({ "latent": latent, "state": state })).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "decided": states, "revision": catalogue.revision, "written": path }))?)?;
    } else {
        writeln!(out, "{} decisions of {} written to {}", decisions.len(), args.reviewer, path.display())?;
    }
    Ok(Outcome::Done)
}

type States = Vec<(u32, LabelState)>;

fn applied(sae: &NamedSae, decisions: &[Decision]) -> anyhow::Result<(ConceptCatalog, States)> {
    let mut catalogue = sae.catalogue.clone();
    let states =
        decisions.iter().map(|decision| Ok((decision.latent.0, decide(&mut catalogue, decision)?))).collect::<anyhow::Result<_>>()?;
    catalogue.revision += 1;
    Ok((catalogue, states))
}

fn run_agreement(args: &AgreementArgs) -> anyhow::Result<Outcome> {
    let sae = args.sae.open()?;
    let found = agreements(&sae.catalogue);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
        return Ok(Outcome::Done);
    }
    for pair in &found {
        let [a, b] = &pair.reviewers;
        writeln!(
            out,
            "{a} and {b}: kappa {:.2}, alike in {:.0} % of {} labels ({:.0} % by chance)",
            pair.kappa,
            100.0 * pair.observed,
            pair.n,
            100.0 * pair.expected
        )?;
    }
    if found.is_empty() {
        writeln!(out, "no two reviewers have judged the same label")?;
    }
    Ok(Outcome::Done)
}

fn run_carry_over(args: &CarryOverArgs) -> anyhow::Result<Outcome> {
    let after = args.sae.open_or_new()?;
    let before = NamedSae::earlier(&args.from, after.weights.spec().selection, args.from_concepts.as_deref())?;
    ensure!(
        before.weights.spec().d_in == after.weights.spec().d_in,
        "the earlier SAE reads {} values, this one {}",
        before.weights.spec().d_in,
        after.weights.spec().d_in
    );
    let (catalogue, n) = carry_over((&before.weights, &before.catalogue), (&after.weights, &after.catalogue), args.least);
    let path = after.save(&catalogue)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "carried_over": n, "written": path }))?)?;
    } else {
        writeln!(out, "{n} labels carried over as proposals, written to {}", path.display())?;
    }
    Ok(Outcome::Done)
}

fn state_words(state: LabelState) -> &'static str {
    match state {
        LabelState::Proposed => "proposed",
        LabelState::Accepted => "accepted",
        LabelState::Edited => "edited",
        LabelState::Rejected => "rejected",
        LabelState::NeedsData => "needs data",
    }
}
