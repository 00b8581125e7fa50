//! Names from a language model: any endpoint that speaks OpenAI's chat API.
//!
//! Asked only about latents with cases enough, shown items only, and its word is a proposal like any other:
//! `recsae verify` and reviewers decide. The flow: prompts → cost estimate → ask what is not answered yet →
//! keep every answer → names that are names.

pub mod answers;
pub mod client;
pub mod template;

use std::collections::HashSet;

use serde::Serialize;

use crate::sae::concept::{ConceptCatalog, LabelEvidence};
use crate::sae::latent::LatentId;
use crate::workshop::label::Labelling;
use crate::workshop::label::characteristic::ItemCounts;
use crate::workshop::label::items::Items;
use crate::workshop::label::llm::answers::{Answers, Kept, prompt_hash};
use crate::workshop::label::llm::client::Client;
use crate::workshop::label::llm::template::fill;
use crate::workshop::label::propose::{evidence_hash, propose};

/// Items shown of the latent, and for comparison.
const ITEMS_SHOWN: usize = 20;
/// Characters a token stands for, in the estimate: English text in common tokenisers.
const CHARACTERS_A_TOKEN: f64 = 4.0;
/// Tokens of an answer, in the estimate.
const ANSWER_TOKENS: f64 = 12.0;
/// Longest name, in characters and in words.
const LONGEST: (usize, usize) = (80, 12);

/// A question about a latent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// The latent.
    pub latent: LatentId,
    /// The prompt in full.
    pub prompt: String,
    /// Its hash with the model.
    pub hash: String,
}

/// What a run will cost at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Questions that are not answered yet.
    pub n_questions: usize,
    /// Tokens of their prompts, about.
    pub prompt_tokens: f64,
    /// Tokens of their answers, about.
    pub answer_tokens: f64,
    /// In the currency of the prices given.
    pub cost: f64,
}

/// Questions about every latent with characteristic items that has no name from its tags, or about all.
///
/// # Errors
/// The template names a place that there is not.
pub fn questions(labelling: &Labelling, items: &Items, template: &str, model: &str, all: bool) -> anyhow::Result<Vec<Question>> {
    let counts = ItemCounts::new(&labelling.cases, items.len());
    // The most served items, as what users get anyway.
    let mut common = counts.seen();
    common.sort_by_key(|item| (std::cmp::Reverse(counts.of(*item)), *item));
    let list = |items_of: &mut dyn Iterator<Item = u32>| {
        items_of.take(ITEMS_SHOWN).map(|item| format!("- {}", items.title(item))).collect::<Vec<_>>().join("\n")
    };
    let mut questions = Vec::new();
    for latent in labelling.naming.latents.iter().filter(|latent| latent.items.len() >= 3 && (all || latent.name.is_err())) {
        let shown = list(&mut latent.items.iter().copied());
        let others = list(&mut common.iter().copied().filter(|item| !latent.items.contains(item)));
        let prompt = fill(template, &[("items", &shown), ("others", &others)], &["items"])?;
        questions.push(Question { latent: latent.latent, hash: prompt_hash(model, &prompt), prompt });
    }
    Ok(questions)
}

/// What the questions that are not answered yet will cost; prices are per million tokens.
#[must_use]
pub fn estimate(questions: &[Question], answers: &Answers, price_in: f64, price_out: f64) -> Estimate {
    let mut asked = HashSet::new();
    let open: Vec<&Question> =
        questions.iter().filter(|question| answers.get(&question.hash).is_none() && asked.insert(&question.hash)).collect();
    let prompt_tokens: f64 = open.iter().map(|question| question.prompt.chars().count() as f64 / CHARACTERS_A_TOKEN).sum();
    let answer_tokens = open.len() as f64 * ANSWER_TOKENS;
    Estimate { n_questions: open.len(), prompt_tokens, answer_tokens, cost: (prompt_tokens * price_in + answer_tokens * price_out) / 1e6 }
}

/// Asks what is not answered yet, and returns every question's answer. `progress` is told of each question done.
///
/// # Errors
/// The endpoint refuses for good or stays silent, or answers cannot be kept. What was answered is kept.
pub fn ask_all(
    questions: &[Question],
    client: &mut Client,
    model: &str,
    answers: &mut Answers,
    now_ms: &dyn Fn() -> i64,
    progress: &dyn Fn(),
) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::with_capacity(questions.len());
    for question in questions {
        if answers.get(&question.hash).is_none() {
            let answer = client.ask(&question.prompt)?;
            let (prompt_hash, prompt) = (question.hash.clone(), question.prompt.clone());
            answers.keep(Kept { prompt_hash, model: model.to_owned(), prompt, answer, at_ms: now_ms() })?;
        }
        texts.push(answers.get(&question.hash).map(|answer| answer.text.clone()).unwrap_or_default());
        progress();
    }
    Ok(texts)
}

/// What a run asked and got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LlmSummary {
    /// Latents asked about.
    pub n_asked: usize,
    /// Answers that were names.
    pub n_named: usize,
}

/// Puts the names in the answers into the catalogue as proposals of source `llm`, whose value is the prompt's hash.
/// Labels that reviewers decided on stay.
pub fn propose_all(
    catalogue: &mut ConceptCatalog,
    labelling: &Labelling,
    items: &Items,
    questions: &[Question],
    answers: &[String],
) -> LlmSummary {
    let mut summary = LlmSummary { n_asked: questions.len(), n_named: 0 };
    for (Question { latent, hash, .. }, answer) in questions.iter().zip(answers) {
        let (latent, value) = (*latent, hash.clone());
        let (Some(name), Some(found)) = (name_in(answer), labelling.naming.latents.get(latent.index())) else { continue };
        summary.n_named += 1;
        let mut evidence = LabelEvidence { source: "llm".into(), value, n_active: found.n_active as u64, ..LabelEvidence::default() };
        let ids: Vec<&str> = found.items.iter().map(|item| items.id(*item)).collect();
        evidence.hash = evidence_hash(&catalogue.fingerprint, latent.0, &evidence, &ids);
        propose(catalogue.concepts.entry(latent).or_default(), Some((name, evidence)));
    }
    summary
}

/// The name in an answer: its last line that is not empty, without quotes and a full stop; `None` for NONE
/// and for what is too long to be a name.
#[must_use]
pub fn name_in(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let line = line.trim_start_matches(|c: char| "-*#>\"'“ ".contains(c)).trim_end_matches(|c: char| ".\"'”* ".contains(c)).trim();
    let (characters, words) = (line.chars().count(), line.split_whitespace().count());
    let is_name = characters > 1 && characters <= LONGEST.0 && words <= LONGEST.1 && line.chars().any(char::is_alphabetic);
    let is_none =
        line.eq_ignore_ascii_case("none") || line.to_lowercase().starts_with("i cannot") || line.to_lowercase().starts_with("sorry");
    (is_name && !is_none && !line.chars().any(char::is_control)).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_name_or_nothing() {
        assert_eq!(name_in("\"Space opera.\"\n"), Some("Space opera".into()));
        assert_eq!(name_in("The items share a period.\n\n**1950s musicals**"), Some("1950s musicals".into()));
        for nonsense in ["", "\n", "NONE", "none.", "42", "?", &"very ".repeat(30), "I cannot tell", "a\u{7}b c"] {
            assert_eq!(name_in(nonsense), None, "{nonsense:?}");
        }
    }
}
