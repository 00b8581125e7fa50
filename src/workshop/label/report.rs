//! What `recsae label` says: how many latents are named, by which source, how well, and how many names
//! chance would have given.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use crate::sae::hold_out::HoldOut;
use crate::workshop::label::Labelling;
use crate::workshop::label::gather::EvidenceKind;
use crate::workshop::label::llm::LlmSummary;
use crate::workshop::label::naming::{NoName, Rule};

/// The report, as printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct LabelReport {
    /// Fingerprint of the SAE.
    pub fingerprint: String,
    /// Latents of the SAE.
    pub n_latents: usize,
    /// Rows encoded.
    pub n_rows: usize,
    /// Distinct cases that labels are made from.
    pub n_cases: usize,
    /// Rows that repeat another of their entity, or have no item.
    pub n_repeated: usize,
    /// Items in cases.
    pub n_items: usize,
    /// Listed items that the items table does not have.
    pub n_unknown_items: usize,
    /// What counts as evidence.
    pub evidence: EvidenceKind,
    /// Which users and items are kept for `recsae verify`.
    pub hold_out: HoldOut,
    /// Levels of the rule.
    pub rule: Rule,
    /// Tag sources in order of preference, with their number of tags.
    pub sources: Vec<(String, usize)>,
    /// Pairs of latent and tag in the correction.
    pub n_pairs: usize,
    /// Latents with a name.
    pub n_named: usize,
    /// Latents without one, by reason.
    pub unnamed: BTreeMap<NoName, usize>,
    /// Names by source.
    pub by_source: Vec<SourceSummary>,
    /// Names found with the tags dealt anew among the items, one number a seed: all of them false.
    pub shuffled: Vec<usize>,
    /// What a language model was asked and said; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<LlmSummary>,
    /// The labels.
    pub labels: Vec<LabelLine>,
}

/// Names of one source. Medians over its latents.
#[derive(Clone, Debug, Serialize)]
pub struct SourceSummary {
    /// The source.
    pub source: String,
    /// Latents named by it.
    pub n_named: usize,
    /// P(tag | active).
    pub precision: f64,
    /// P(active | tag).
    pub recall: f64,
    /// P(tag | active) / P(tag).
    pub lift: f64,
    /// AUC of the activation.
    pub auc: f64,
}

/// One label.
#[derive(Clone, Debug, Serialize)]
pub struct LabelLine {
    /// Latent.
    pub latent: u32,
    /// Its name.
    pub label: String,
    /// Source of the tag.
    pub source: String,
    /// Value of the tag.
    pub value: String,
    /// Items a case needs to carry it.
    pub at_least: u32,
    /// Cases the latent is active in, and their entities.
    pub n_active: usize,
    /// Distinct entities of those cases.
    pub n_entities: usize,
    /// Characteristic items, and those of them with the tag.
    pub items: [u64; 2],
    /// P(tag | active).
    pub precision: f64,
    /// P(active | tag).
    pub recall: f64,
    /// P(tag | active) / P(tag).
    pub lift: f64,
    /// AUC of the activation.
    pub auc: f64,
    /// Natural logarithm of the q-value: the value itself may be smaller than any float.
    pub ln_q_value: f64,
    /// Lower end of the log-odds' interval, by which the tags of a latent are ranked.
    pub log_odds: f64,
    /// RecSAE's ranking.
    pub tf_idf: f64,
    /// The best tag by TF-IDF, where it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_tf_idf: Option<String>,
    /// Other tags that pass the rule, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

impl LabelReport {
    /// Lines for every name of a labelling.
    #[must_use]
    pub fn lines(labelling: &Labelling, rule: &Rule) -> Vec<LabelLine> {
        let tag_name = |tag: usize| labelling.tags.tags()[tag].to_string();
        let line = |(latent, best): (&super::naming::LatentEvidence, &super::naming::Candidate)| {
            let tag = &labelling.tags.tags()[best.tag];
            let first = latent.candidates.iter().max_by(|a, b| a.tf_idf.total_cmp(&b.tf_idf)).map_or(best.tag, |first| first.tag);
            LabelLine {
                latent: latent.latent.0,
                label: tag.to_string(),
                source: tag.source.clone(),
                value: tag.value.clone(),
                at_least: labelling.naming.at_least[best.tag],
                n_active: latent.n_active,
                n_entities: latent.n_entities,
                items: [best.items.n_active, best.items.n_both],
                precision: best.cases.precision(),
                recall: best.cases.recall(),
                lift: best.cases.lift(),
                auc: best.auc,
                ln_q_value: best.ln_q,
                log_odds: best.log_odds,
                tf_idf: best.tf_idf,
                by_tf_idf: (first != best.tag).then(|| tag_name(first)),
                others: latent.candidates.iter().skip(1).filter(|other| other.names(rule)).map(|other| tag_name(other.tag)).collect(),
            }
        };
        labelling.naming.named().map(line).collect()
    }

    /// Medians by source, most names first.
    #[must_use]
    pub fn summaries(lines: &[LabelLine]) -> Vec<SourceSummary> {
        let mut by_source: BTreeMap<&str, Vec<&LabelLine>> = BTreeMap::new();
        lines.iter().for_each(|line| by_source.entry(&line.source).or_default().push(line));
        let mut summaries: Vec<SourceSummary> = by_source
            .into_iter()
            .map(|(source, lines)| {
                let of = |value: fn(&LabelLine) -> f64| median(lines.iter().map(|line| value(line)).collect());
                SourceSummary {
                    source: source.to_owned(),
                    n_named: lines.len(),
                    precision: of(|line| line.precision),
                    recall: of(|line| line.recall),
                    lift: of(|line| line.lift),
                    auc: of(|line| line.auc),
                }
            })
            .collect();
        summaries.sort_by(|a, b| b.n_named.cmp(&a.n_named).then(a.source.cmp(&b.source)));
        summaries
    }

    /// Writes the report for people.
    ///
    /// # Errors
    /// `out` does.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{} of {} latents named, from {} cases of {} rows, {} items, {} tags",
            self.n_named,
            self.n_latents,
            self.n_cases,
            self.n_rows,
            self.n_items,
            self.sources.iter().map(|(_, n)| n).sum::<usize>()
        )?;
        writeln!(
            out,
            "{:<16} {:>6} {:>6} {:>10} {:>7} {:>6} {:>5}   (medians)",
            "source", "tags", "named", "precision", "recall", "lift", "AUC"
        )?;
        for (source, n_tags) in &self.sources {
            match self.by_source.iter().find(|summary| summary.source == *source) {
                Some(s) => writeln!(
                    out,
                    "{source:<16} {n_tags:>6} {:>6} {:>10.2} {:>7.2} {:>6.1} {:>5.2}",
                    s.n_named, s.precision, s.recall, s.lift, s.auc
                )?,
                None => writeln!(out, "{source:<16} {n_tags:>6} {:>6}", 0)?,
            }
        }
        for (reason, n) in &self.unnamed {
            let words = match reason {
                NoName::Dead => "never active".to_owned(),
                NoName::TooFewCases => format!("active in fewer than {} cases", self.rule.min_cases),
                NoName::TooFewEntities => format!("active for fewer than {} users", self.rule.min_entities),
                NoName::TooFewItems => format!("fewer than {} characteristic items", self.rule.min_items),
                NoName::NothingEnriched => "no tag enriched".to_owned(),
                NoName::NothingTelling => {
                    format!("enriched, but lift < {} or precision < {}", self.rule.min_lift, self.rule.min_precision)
                }
            };
            writeln!(out, "no label {:>7}  {words}", n)?;
        }
        if !self.shuffled.is_empty() {
            let counts: Vec<String> = self.shuffled.iter().map(ToString::to_string).collect();
            writeln!(out, "tags dealt anew among the items, q = {} %: {} labels", 100.0 * self.rule.q, counts.join(" "))?;
        }
        if let Some(llm) = &self.llm {
            writeln!(
                out,
                "language model: {} latents asked about, {} named, {} answers were no name",
                llm.n_asked,
                llm.n_named,
                llm.n_asked - llm.n_named
            )?;
        }
        if self.n_unknown_items > 0 {
            writeln!(out, "{} listed items are not in the items table", self.n_unknown_items)?;
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0]), median(vec![])), (2.0, 2.5, 0.0));
    }
}
