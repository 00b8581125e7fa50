//! What `recsae verify` says.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use crate::sae::concept::Verification;
use crate::workshop::verify::tested::{AskedSummary, LabelTest, Tests};
use crate::workshop::verify::wilson::Share;

/// RecSAE counts a concept as confirmed from this confidence on.
const RECSAE_CONFIRMED: f64 = 0.8;
/// Cosine from which a latent of another seed counts as the same.
const SAME_LATENT: f64 = 0.7;

/// The report, as printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Fingerprint of the SAE.
    pub fingerprint: String,
    /// Held-out cases.
    pub n_cases: usize,
    /// Labels by status.
    pub by_status: BTreeMap<Verification, usize>,
    /// Labels of free words that were not tested: no tag can, and no language model was asked.
    pub n_untestable: usize,
    /// What a language model was asked of such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedSummary>,
    /// By source: labels, verified ones, medians.
    pub by_source: BTreeMap<String, SourceTests>,
    /// Recall by decile of the activation over all labels, the weakest first.
    pub recall_by_decile: Vec<Share>,
    /// Labels with a RecSAE confidence of at least 0.8, and those of them that are not even weak here.
    pub recsae_confirmed: [usize; 2],
    /// Latents with a partner of cosine >= 0.7 in every other SAE, of all: absent without another SAE.
    pub stable: Option<[usize; 2]>,
    /// Every test.
    pub tests: Vec<LabelTest>,
}

/// Tests of the labels of one source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceTests {
    /// Labels.
    pub n: usize,
    /// Verified ones.
    pub n_verified: usize,
    /// Median balanced accuracy.
    pub balanced_accuracy: f64,
    /// Median precision with as many negatives as positives.
    pub precision: f64,
    /// Median recall.
    pub recall: f64,
}

impl VerifyReport {
    /// Sums the tests up.
    #[must_use]
    pub fn new(fingerprint: &str, tests: Tests) -> Self {
        let mut by_status = BTreeMap::new();
        let mut recall_by_decile = vec![Share::default(); 10];
        let mut by_source: BTreeMap<String, Vec<&LabelTest>> = BTreeMap::new();
        let mut recsae_confirmed = [0, 0];
        for test in &tests.tests {
            *by_status.entry(test.detection.status).or_insert(0) += 1;
            by_source.entry(test.source.clone()).or_default().push(test);
            for (sum, share) in recall_by_decile.iter_mut().zip(&test.detection.by_decile) {
                *sum = Share { n_right: sum.n_right + share.n_right, n: sum.n + share.n };
            }
            if test.detection.recsae_confidence.is_some_and(|confidence| confidence >= RECSAE_CONFIRMED - 1e-9) {
                recsae_confirmed[0] += 1;
                recsae_confirmed[1] += usize::from(test.detection.status == Verification::Unverified);
            }
        }
        let by_source = by_source.into_iter().map(|(source, tests)| (source, summary(&tests))).collect();
        let known: Vec<f64> = tests.stability.iter().copied().flatten().collect();
        let stable = (!known.is_empty()).then(|| [known.iter().filter(|cosine| **cosine >= SAME_LATENT).count(), known.len()]);
        Self {
            fingerprint: fingerprint.to_owned(),
            n_cases: tests.n_cases,
            by_status,
            n_untestable: tests.free.len(),
            asked: tests.asked,
            by_source,
            recall_by_decile,
            recsae_confirmed,
            stable,
            tests: tests.tests,
        }
    }

    /// Writes the report for people.
    ///
    /// # Errors
    /// `out` does.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let n = |status| self.by_status.get(&status).copied().unwrap_or(0);
        writeln!(
            out,
            "{} verified, {} weak, {} unverified of {} labels, on {} held-out cases",
            n(Verification::Verified),
            n(Verification::Weak),
            n(Verification::Unverified),
            self.tests.len(),
            self.n_cases
        )?;
        writeln!(
            out,
            "{:<16} {:>6} {:>9} {:>18} {:>10} {:>7}   (medians)",
            "source", "labels", "verified", "balanced accuracy", "precision", "recall"
        )?;
        for (source, s) in &self.by_source {
            writeln!(
                out,
                "{source:<16} {:>6} {:>9} {:>18.2} {:>10.2} {:>7.2}",
                s.n, s.n_verified, s.balanced_accuracy, s.precision, s.recall
            )?;
        }
        let deciles: Vec<String> = self.recall_by_decile.iter().map(|share| format!("{:.2}", share.value())).collect();
        writeln!(out, "recall by activation decile, weakest first: {}", deciles.join(" "))?;
        let [confirmed, refuted] = self.recsae_confirmed;
        writeln!(out, "RecSAE's confidence (5 + 5 cases) >= 0.8: {confirmed} labels, {refuted} of them unverified here")?;
        if let Some([stable, all]) = self.stable {
            writeln!(out, "{stable} of {all} latents have a partner of cosine >= {SAME_LATENT} in the other SAE")?;
        }
        if let Some(asked) = &self.asked {
            writeln!(
                out,
                "language model: asked of {} cases whether a label in free words fits them, {} answers neither yes nor no",
                asked.n_asked, asked.n_unreadable
            )?;
        }
        if self.n_untestable > 0 {
            writeln!(out, "{} labels are no tags of the items table and were not tested; --llm tests them", self.n_untestable)?;
        }
        Ok(())
    }
}

fn summary(tests: &[&LabelTest]) -> SourceTests {
    let median = |value: fn(&LabelTest) -> f64| {
        let mut values: Vec<f64> = tests.iter().map(|test| value(test)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    SourceTests {
        n: tests.len(),
        n_verified: tests.iter().filter(|test| test.detection.status == Verification::Verified).count(),
        balanced_accuracy: median(|test| test.detection.balanced_accuracy),
        precision: median(|test| test.detection.precision),
        recall: median(|test| test.detection.recall.value()),
    }
}
