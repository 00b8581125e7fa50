//! An OpenAI-compatible endpoint: one question, one answer, with patience and within a rate.
//!
//! What may pass (too many requests, 5xx, a timeout, a cut connection, an answer that is no completion) is
//! tried again with growing pauses; what will not (a wrong key, an unknown model) ends the run.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Tries of one question.
const TRIES: u32 = 5;
/// Largest answer read: a name is some words; a server that sends more is broken.
const MOST_BYTES: u64 = 1 << 20;
/// Tokens asked for: six words, and some for models that think aloud first.
const MOST_TOKENS: u32 = 256;

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://host/v1`: `/chat/completions` is added.
    pub base_url: String,
    /// Model name.
    pub model: String,
    /// Key for `Authorization: Bearer`; none where the server asks for none.
    pub key: Option<String>,
    /// Questions a minute at most.
    pub per_minute: u32,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// First pause before another try; doubled each time.
    pub pause: Duration,
}

/// An answer with what it cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Tokens of the prompt, as the server counts them; 0 where it does not say.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub answer_tokens: u64,
}

/// Asks one endpoint.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    agent: ureq::Agent,
    last: Option<Instant>,
}

enum Trouble {
    /// May pass.
    Passing(String),
    /// Will not.
    Lasting(String),
}

impl Client {
    /// A client of this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(endpoint.timeout));
        Self { agent: config.build().into(), endpoint, last: None }
    }

    /// Asks, and asks again where that may help.
    ///
    /// # Errors
    /// The server refuses for good, or did not answer in `TRIES` tries.
    pub fn ask(&mut self, prompt: &str) -> anyhow::Result<Answer> {
        let mut trouble = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(self.endpoint.pause * 2_u32.saturating_pow(attempt - 1));
            }
            self.keep_the_rate();
            match self.try_once(prompt) {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Passing(why)) => trouble = why,
                Err(Trouble::Lasting(why)) => bail!("{}: {why}", self.endpoint.base_url),
            }
        }
        bail!("{}: no answer in {TRIES} tries, at last: {trouble}; what was answered is kept, run again to go on", self.endpoint.base_url)
    }

    fn keep_the_rate(&mut self) {
        let gap = Duration::from_secs(60) / self.endpoint.per_minute.max(1);
        if let Some(last) = self.last {
            std::thread::sleep(gap.saturating_sub(last.elapsed()));
        }
        self.last = Some(Instant::now());
    }

    fn try_once(&self, prompt: &str) -> Result<Answer, Trouble> {
        let passing = |error: &dyn std::fmt::Display| Trouble::Passing(error.to_string());
        let url = format!("{}/chat/completions", self.endpoint.base_url.trim_end_matches('/'));
        let body = json!({
            "model": self.endpoint.model, "temperature": 0, "max_tokens": MOST_TOKENS,
            "messages": [{ "role": "user", "content": prompt }],
        });
        let mut request = self.agent.post(&url);
        if let Some(key) = &self.endpoint.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send_json(&body).map_err(|error| passing(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string().map_err(|error| passing(&error))?;
        let excerpt: String = text.chars().take(200).collect();
        match status {
            200 => parse(&text).map_err(|error| Trouble::Passing(format!("{error:#}: {excerpt}"))),
            408 | 409 | 425 | 429 | 500..=599 => Err(Trouble::Passing(format!("status {status}: {excerpt}"))),
            _ => Err(Trouble::Lasting(format!("status {status}: {excerpt}"))),
        }
    }
}

fn parse(text: &str) -> anyhow::Result<Answer> {
    let json: serde_json::Value = serde_json::from_str(text).context("the answer is no JSON")?;
    let content = json["choices"][0]["message"]["content"].as_str().context("the answer has no choices[0].message.content")?;
    let tokens = |key: &str| json["usage"][key].as_u64().unwrap_or(0);
    Ok(Answer { text: content.to_owned(), prompt_tokens: tokens("prompt_tokens"), answer_tokens: tokens("completion_tokens") })
}
