//! Labels with their tests, and those that wait for one.

use serde::Serialize;

use crate::sae::latent::LatentId;
use crate::workshop::label::cases::Cases;
use crate::workshop::verify::detection::Detection;
use crate::workshop::verify::sample::Sample;

/// The test of one label.
#[derive(Clone, Debug, Serialize)]
pub struct LabelTest {
    /// The latent.
    pub latent: LatentId,
    /// Its label.
    pub label: String,
    /// Source of the label.
    pub source: String,
    /// How the label did.
    pub detection: Detection,
    /// Cosine to its partner in each of the other SAEs, the least of them; absent without others.
    pub stability: Option<f64>,
}

/// Tests of a catalogue.
#[derive(Clone, Debug, Serialize)]
pub struct Tests {
    /// Held-out cases.
    pub n_cases: usize,
    /// Labels that are words of somebody's own: no tag says which cases carry them. A language model may.
    #[serde(skip)]
    pub free: Vec<FreeLabel>,
    /// What a language model was asked of those.
    pub asked: Option<AskedSummary>,
    /// One a label.
    pub tests: Vec<LabelTest>,
    /// Of all latents alive in the cases, cosine to the partner in the other SAEs (the least), by latent.
    #[serde(skip)]
    pub stability: Vec<Option<f64>>,
    /// The held-out cases.
    #[serde(skip)]
    pub cases: Cases,
}

/// A label in free words with the cases it is to be tested on.
#[derive(Clone, Debug)]
pub struct FreeLabel {
    /// The latent.
    pub latent: LatentId,
    /// Its label.
    pub label: String,
    /// Where it comes from: `llm`, `edited`, `carried over`.
    pub source: String,
    /// The cases.
    pub sample: Sample,
}

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AskedSummary {
    /// Cases asked about.
    pub n_asked: usize,
    /// Answers that were neither yes nor no: those cases are left out.
    pub n_unreadable: usize,
}

impl FreeLabel {
    /// All of its cases, class by class.
    pub fn cases(&self) -> impl Iterator<Item = u32> + '_ {
        let Sample { positive, random, nearest } = &self.sample;
        positive.iter().map(|(case, _)| *case).chain(random.iter().copied()).chain(nearest.iter().copied())
    }
}
