//! Arguments by which a language model is asked, for names or whether they fit.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::cli::progress::Progress;
use crate::clock::{Clock, SystemClock};
use crate::workshop::label::llm::answers::Answers;
use crate::workshop::label::llm::client::{Client, Endpoint};
use crate::workshop::label::llm::{Question, ask_all, estimate};

/// The endpoint, what is asked, and what it may cost.
#[derive(Clone, Debug, clap::Args)]
pub struct LlmArgs {
    /// Also ask a language model: base URL of an OpenAI-compatible endpoint, such as http://localhost:8000/v1
    #[arg(long, value_name = "URL", requires_all = ["llm_model", "llm_answers"])]
    llm: Option<String>,
    /// Its model
    #[arg(long, value_name = "MODEL", requires = "llm")]
    llm_model: Option<String>,
    /// File that holds the key
    #[arg(long, value_name = "FILE", requires = "llm")]
    llm_key_file: Option<PathBuf>,
    /// File every answer is kept in: an interrupted run goes on from it, a repeated one asks nothing
    #[arg(long, value_name = "FILE.jsonl", requires = "llm")]
    llm_answers: Option<PathBuf>,
    /// Prompt template, with {{items}} and, for a name, {{others}}, for a test of one, {{label}} [default: after RecSAE]
    #[arg(long, value_name = "FILE", requires = "llm")]
    llm_prompt: Option<PathBuf>,
    /// Questions a minute at most
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    llm_per_minute: u32,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    llm_timeout: u64,
    /// Pause before a question is asked again, ms, doubled each time
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    llm_pause: u64,
    /// Price of a million prompt tokens, for the estimate
    #[arg(long, value_name = "PRICE", default_value_t = 0.0)]
    llm_price_in: f64,
    /// Price of a million answer tokens
    #[arg(long, value_name = "PRICE", default_value_t = 0.0)]
    llm_price_out: f64,
    /// Ask nothing if the estimate is above this
    #[arg(long, value_name = "PRICE")]
    llm_most_cost: Option<f64>,
}

impl LlmArgs {
    /// The model that is asked, where there is an endpoint.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.llm.as_ref().and(self.llm_model.as_deref())
    }

    /// The prompt template.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn template(&self, default: &str) -> anyhow::Result<String> {
        self.llm_prompt.as_ref().map_or_else(|| Ok(default.to_owned()), read)
    }

    /// Asks what was not answered before; every question's answer.
    ///
    /// # Errors
    /// Key or answers cannot be read, the cost is above the limit, or the endpoint fails.
    pub fn answers(&self, questions: &[Question]) -> anyhow::Result<Vec<String>> {
        let (Some(base_url), Some(model), Some(path)) = (&self.llm, &self.llm_model, &self.llm_answers) else {
            bail!("--llm, --llm-model and --llm-answers: expected all three")
        };
        let key = self.llm_key_file.as_ref().map(read).transpose()?.map(|key| key.trim().to_owned());
        ensure!(key.as_ref().is_none_or(|key| !key.is_empty()), "the key file is empty");
        let mut answers = Answers::open(path)?;
        // Where two cases show the same, one question is asked.
        let n_questions = questions.iter().map(|question| &question.hash).collect::<HashSet<_>>().len();
        let cost = estimate(questions, &answers, self.llm_price_in, self.llm_price_out);
        eprintln!(
            "{} questions to {model}, {} answered already: about {:.0} prompt and {:.0} answer tokens, cost {:.4}",
            n_questions,
            n_questions - cost.n_questions,
            cost.prompt_tokens,
            cost.answer_tokens,
            cost.cost
        );
        if let Some(most) = self.llm_most_cost.filter(|most| cost.cost > *most) {
            bail!("the estimate of {:.4} is above --llm-most-cost {most}: nothing was asked", cost.cost);
        }
        let endpoint = Endpoint {
            base_url: base_url.clone(),
            model: model.clone(),
            key,
            per_minute: self.llm_per_minute,
            timeout: Duration::from_secs(self.llm_timeout),
            pause: Duration::from_millis(self.llm_pause),
        };
        let progress = Progress::of(questions.len(), "questions");
        let asked = ask_all(questions, &mut Client::new(endpoint), model, &mut answers, &|| SystemClock.now_ms(), &|| progress.add(1));
        progress.finish();
        asked
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
