//! Labels in free words (a language model's, a reviewer's): no tag says which cases carry them, so a language model is
//! asked of each held-out case whether the label fits it.
//!
//! That is RecSAE's own test, without its leaks: the prompt holds the label and what of the case was held out when the
//! label was made, nothing of how strong the latent is; cases are of other users than those the label was made from;
//! and there are enough of them that a coin does not pass.

use anyhow::ensure;

use crate::workshop::label::items::Items;
use crate::workshop::label::llm::Question;
use crate::workshop::label::llm::answers::prompt_hash;
use crate::workshop::label::llm::template::fill;
use crate::workshop::verify::detection::detect;
use crate::workshop::verify::sample::Sample;
use crate::workshop::verify::tested::{AskedSummary, LabelTest, Tests};

/// A question for each case of each label, at most `most` cases of a class.
///
/// # Errors
/// The template lacks a place or names one that there is not.
pub fn questions(tests: &mut Tests, items: &Items, template: &str, model: &str, most: usize) -> anyhow::Result<Vec<Question>> {
    let mut questions = Vec::new();
    for label in &mut tests.free {
        let Sample { positive, random, nearest } = &mut label.sample;
        positive.truncate(most);
        random.truncate(most);
        nearest.truncate(most);
        for case in label.cases() {
            let shown: Vec<String> = tests.cases.items(case as usize).iter().map(|item| format!("- {}", items.title(*item))).collect();
            let prompt = fill(template, &[("label", &label.label), ("items", &shown.join("\n"))], &["label", "items"])?;
            questions.push(Question { latent: label.latent, hash: prompt_hash(model, &prompt), prompt });
        }
    }
    Ok(questions)
}

/// Tests the labels by the answers, which are in the order of the questions.
///
/// # Errors
/// There are not as many answers as questions.
pub fn take_in(tests: &mut Tests, answers: &[String]) -> anyhow::Result<()> {
    let n_asked = tests.free.iter().map(|label| label.cases().count()).sum();
    ensure!(answers.len() == n_asked, "{} answers to {n_asked} questions", answers.len());
    let mut summary = AskedSummary { n_asked, n_unreadable: 0 };
    let mut rest = answers.iter().map(|answer| yes_or_no(answer));
    for mut label in std::mem::take(&mut tests.free) {
        let said: std::collections::HashMap<u32, Option<bool>> = label.cases().zip(&mut rest).collect();
        let answered = |case: &u32| said.get(case).is_some_and(Option::is_some);
        summary.n_unreadable += label.cases().filter(|case| !answered(case)).count();
        label.sample.positive.retain(|(case, _)| answered(case));
        label.sample.random.retain(answered);
        label.sample.nearest.retain(answered);
        tests.tests.push(LabelTest {
            latent: label.latent,
            detection: detect(&label.sample, &|case| said.get(&case).copied().flatten() == Some(true)),
            label: label.label,
            source: label.source,
            stability: tests.stability.get(label.latent.index()).copied().flatten(),
        });
    }
    tests.tests.sort_by_key(|test| test.latent);
    tests.asked = Some(summary);
    Ok(())
}

/// The last line that is not empty, as YES or NO: its first word, or the only one of the two that it has. Anything else
/// is no answer.
fn yes_or_no(text: &str) -> Option<bool> {
    let line = text.lines().rfind(|line| !line.trim().is_empty())?.to_lowercase();
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has = |word: &str| words.contains(&word);
    match (words.first().copied(), has("yes"), has("no")) {
        (Some("yes"), ..) | (_, true, false) => Some(true),
        (Some("no"), ..) | (_, false, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_yes_no_or_nothing() {
        for yes in ["YES", "**Yes.**", "Let me see.\n\nYes, there is no other", "The answer is YES"] {
            assert_eq!(yes_or_no(yes), Some(true), "{yes}");
        }
        for no in ["no\n", "NO", "Yes or no?\nNo, not yes", "Answer: no"] {
            assert_eq!(yes_or_no(no), Some(false), "{no}");
        }
        for nonsense in ["", "\n", "maybe", "Nothing fits", "yesterday", "...", "it is not yes or no"] {
            assert_eq!(yes_or_no(nonsense), None, "{nonsense}");
        }
    }
}
