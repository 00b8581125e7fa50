//! A steering plan: which latents are edited, how, and how far a vector may move.
//!
//! A plan belongs to one SAE (its fingerprint) and has a hash: what a steered vector carries, so that
//! it can always be told what was done to it.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::sae::latent::LatentId;
use crate::workshop::steer::strength::Strength;

/// What is done to a latent's activation `z >= 0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// `z' = 0`
    Ablate,
    /// `z' = factor z`
    Scale(f32),
    /// `z' = amount`, whether the latent was active or not
    Clamp(f32),
    /// `z' = max(0, z + amount)`
    Add(f32),
}

impl Action {
    /// The same with its amount, given in `unit`, as an absolute one.
    #[must_use]
    pub fn absolute(self, unit: Unit, of: Strength) -> Self {
        let one = match unit {
            Unit::Absolute => 1.0,
            Unit::P99 => of.p99,
            Unit::Sd => of.sd,
        };
        match self {
            Self::Clamp(amount) => Self::Clamp(amount * one),
            Self::Add(amount) => Self::Add(amount * one),
            other => other,
        }
    }
}

/// What an amount of `Clamp` and `Add` is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// As it is
    #[default]
    Absolute,
    /// Times the 99th percentile of the latent's activations where it is active
    P99,
    /// Times their standard deviation
    Sd,
}

/// One edit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The concept's name, for readers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concept: Option<String>,
    /// Its latents.
    pub latents: Vec<LatentId>,
    /// What is done to each.
    pub action: Action,
    /// Unit of the action's amount, where it has one.
    #[serde(default)]
    pub unit: Unit,
}

impl Edit {
    /// The edit as `recsae steer plan` is told it.
    #[must_use]
    pub fn words(&self) -> String {
        let latents: Vec<String> = self.latents.iter().map(|latent| latent.0.to_string()).collect();
        let unit = match self.unit {
            Unit::Absolute => "",
            Unit::P99 => " --unit p99",
            Unit::Sd => " --unit sd",
        };
        let action = match self.action {
            Action::Ablate => "ablate".to_owned(),
            Action::Scale(factor) => format!("scale --amount {factor}"),
            Action::Clamp(amount) => format!("clamp --amount {amount}{unit}"),
            Action::Add(amount) => format!("add --amount {amount}{unit}"),
        };
        format!("--latents {} --action {action}", latents.join(","))
    }
}

/// The whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Fingerprint of the SAE.
    pub fingerprint: String,
    /// Done in this order.
    pub edits: Vec<Edit>,
    /// Largest `||x' - x|| / ||x||`: a larger change is shortened to it. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f32>,
}

impl Plan {
    /// Reads and checks a plan for an SAE of `d_sae` latents.
    ///
    /// # Errors
    /// It is no plan, belongs to another SAE, or names a latent or an amount that cannot be.
    pub fn read(json: &[u8], fingerprint: &str, d_sae: usize) -> anyhow::Result<Self> {
        let plan: Self = serde_json::from_slice(json).context("not a steering plan")?;
        ensure!(plan.fingerprint == fingerprint, "the plan is for SAE {}, this is {fingerprint}: make it anew", plan.fingerprint);
        plan.check(d_sae)?;
        Ok(plan)
    }

    /// Whether every latent exists and every number is one that means something.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self, d_sae: usize) -> anyhow::Result<()> {
        if let Some(cap) = self.cap {
            ensure!(cap.is_finite() && cap > 0.0, "cap {cap}: expected a number above zero");
        }
        for edit in &self.edits {
            ensure!(!edit.latents.is_empty(), "an edit names no latent");
            let mut named = BTreeSet::new();
            for latent in &edit.latents {
                ensure!(latent.index() < d_sae, "{latent}: this SAE has {d_sae}");
                ensure!(named.insert(*latent), "{latent} is named twice in one edit");
            }
            let (amount, least) = match edit.action {
                Action::Ablate => (0.0, 0.0),
                Action::Scale(factor) => (factor, 0.0),
                Action::Clamp(amount) => (amount, 0.0),
                Action::Add(amount) => (amount, f32::MIN),
            };
            ensure!(amount.is_finite() && amount >= least, "{:?}: expected a finite amount, not below zero but for add", edit.action);
        }
        Ok(())
    }

    /// SHA-256 of the plan's canonical JSON.
    ///
    /// # Errors
    /// Never for a checked plan.
    pub fn hash(&self) -> anyhow::Result<String> {
        Ok(Sha256::digest(serde_json::to_vec(self)?).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Writes amounts that are in the latents' own units out as absolute ones, an edit a latent: what a live run needs.
///
/// # Errors
/// A latent was active in none of the rows behind `strength`: its unit is not known.
pub fn written_out(plan: &Plan, strength: &dyn Fn(LatentId) -> Strength) -> anyhow::Result<Plan> {
    let mut edits = Vec::new();
    for edit in &plan.edits {
        let has_amount = matches!(edit.action, Action::Clamp(_) | Action::Add(_));
        if edit.unit == Unit::Absolute || !has_amount {
            edits.push(Edit { unit: Unit::Absolute, ..edit.clone() });
            continue;
        }
        for latent in &edit.latents {
            let of = strength(*latent);
            ensure!(of.n > 0, "{latent} was active in none of the rows: what its {:?} is cannot be known from them", edit.unit);
            edits.push(Edit { latents: vec![*latent], action: edit.action.absolute(edit.unit, of), unit: Unit::Absolute, ..edit.clone() });
        }
    }
    Ok(Plan { edits, ..plan.clone() })
}
