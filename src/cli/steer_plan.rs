//! `recsae steer plan`: edits of latents, by concept or number, as a file.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use crate::bundle::Bundle;
use crate::cli::dataset_args::DatasetArgs;
use crate::cli::{Outcome, UsageError};
use crate::encode::Encoder;
use crate::sae::activation::SparseActivations;
use crate::sae::embedding::EmbeddingBatch;
use crate::sae::latent::LatentId;
use crate::workshop::dataset::Dataset;
use crate::workshop::encoding::encoder;
use crate::workshop::steer::plan::{Action, Edit, Plan, Unit, written_out};
use crate::workshop::steer::strength::Strength;
use crate::workshop::steer::{latents_by_name, strengths};

/// What an edit does.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ActionName {
    /// No activation
    Ablate,
    /// Activation times the amount
    Scale,
    /// Activation set to the amount
    Clamp,
    /// The amount added
    Add,
}

/// Arguments of `recsae steer plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  recsae steer plan --bundle bundles/v12 --concept 'war films' --action add --amount 0.5 --unit p99 --embeddings recorded/ \\
      --cap 0.3 --out plan.json
  recsae steer plan --bundle bundles/v12 --latents 17,204 --action ablate --out plan.json")]
pub struct Args {
    /// The bundle whose SAE is steered
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// A concept by its label; may be repeated
    #[arg(long, value_name = "NAME", required_unless_present = "latents")]
    concept: Vec<String>,
    /// Latents by number
    #[arg(long, value_delimiter = ',')]
    latents: Vec<u32>,
    /// What is done to them
    #[arg(long, value_enum)]
    action: ActionName,
    /// How much, for scale, clamp and add
    #[arg(long, allow_negative_numbers = true)]
    amount: Option<f32>,
    /// What the amount of clamp and add is measured in
    #[arg(long, value_enum, default_value_t = Unit::Absolute)]
    unit: Unit,
    /// Rows by which an amount in p99 or sd is written out as an absolute one, which `steer run` needs
    #[command(flatten)]
    data: Option<DatasetArgs>,
    /// Largest change of a vector, over its length
    #[arg(long)]
    cap: Option<f32>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the plan.
///
/// # Errors
/// The bundle has no such concept, a number is missing or means nothing, or a file cannot be read or written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let plan = planned(args).map_err(|error| UsageError(format!("{error:#}")))?;
    std::fs::write(&args.out, serde_json::to_vec_pretty(&plan)?).with_context(|| args.out.display().to_string())?;
    writeln!(std::io::stdout().lock(), "{}: {} edits, plan {}", args.out.display(), plan.edits.len(), plan.hash()?)?;
    Ok(Outcome::Done)
}

fn planned(args: &Args) -> anyhow::Result<Plan> {
    let bundle = Bundle::open(&args.bundle)?;
    let amount = || args.amount.context("--amount: expected with scale, clamp and add");
    let action = match args.action {
        ActionName::Ablate => Action::Ablate,
        ActionName::Scale => Action::Scale(amount()?),
        ActionName::Clamp => Action::Clamp(amount()?),
        ActionName::Add => Action::Add(amount()?),
    };
    let names = latents_by_name(bundle.catalogue());
    let edit = |concept: Option<&String>, latents: Vec<LatentId>| Edit { concept: concept.cloned(), latents, action, unit: args.unit };
    let mut edits = Vec::new();
    for concept in &args.concept {
        let Some(latents) = names.get(&concept.to_lowercase()) else {
            ensure!(!names.is_empty(), "no concept {concept:?}: this bundle's catalogue names none; see `recsae label`");
            let mut near: Vec<&str> = names.keys().map(String::as_str).collect();
            let asked = concept.to_lowercase();
            near.sort_by(|a, b| strsim::jaro_winkler(b, &asked).total_cmp(&strsim::jaro_winkler(a, &asked)));
            bail!("no concept {concept:?} in the catalogue; nearest: {}", near.into_iter().take(3).collect::<Vec<_>>().join(", "));
        };
        edits.push(edit(Some(concept), latents.clone()));
    }
    if !args.latents.is_empty() {
        edits.push(edit(None, args.latents.iter().copied().map(LatentId).collect()));
    }
    let plan = Plan { fingerprint: bundle.fingerprint().to_owned(), edits, cap: args.cap };
    plan.check(bundle.spec().d_sae.get())?;
    match &args.data {
        Some(data) => {
            let strength = measured(&bundle, data)?;
            written_out(&plan, &|latent| strength.get(latent.index()).copied().unwrap_or_default())
        }
        None => Ok(plan),
    }
}

/// Strength of every latent over recorded rows.
fn measured(bundle: &Bundle, data: &DatasetArgs) -> anyhow::Result<Vec<Strength>> {
    let weights = bundle.weights().context("this bundle's weights are not known: build it with --weights")?;
    let dataset = Dataset::open(&data.request()?)?;
    let mut batch = EmbeddingBatch::new(weights.spec().d_in);
    dataset.fill(0..dataset.n_rows(), &mut batch)?;
    let mut activations = SparseActivations::default();
    encoder(weights).encode(&batch, &mut activations)?;
    Ok(strengths(&activations, weights.spec().d_sae.get()))
}
