//! Every answer, kept: a run that was cut off goes on where it was, and what was asked can be looked up.
//!
//! One JSON line an answer, appended and flushed as it comes. The key is the hash of model and prompt, so
//! that another template or another model asks anew.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::workshop::label::llm::client::Answer;

/// One kept answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// [`prompt_hash`].
    pub prompt_hash: String,
    /// Model asked.
    pub model: String,
    /// The question in full.
    pub prompt: String,
    /// The answer.
    pub answer: Answer,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
}

/// The file of answers.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
    file: File,
    kept: HashMap<String, Answer>,
}

impl Answers {
    /// Opens the file, or begins it. A last line that was cut off is left out, and asked again.
    ///
    /// # Errors
    /// It cannot be read or written, or a line that is not the last is no answer.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mut kept = HashMap::new();
        let mut cut_off = false;
        if let Ok(file) = File::open(path) {
            let lines: Vec<String> = BufReader::new(file).lines().collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
                match serde_json::from_str::<Kept>(line) {
                    Ok(found) => drop(kept.insert(found.prompt_hash, found.answer)),
                    Err(_) if at + 1 == lines.len() => cut_off = true,
                    Err(error) => return Err(error).with_context(|| format!("line {} of {}", at + 1, path.display())),
                }
            }
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))?;
        if cut_off {
            writeln!(file)?;
        }
        Ok(Self { path: path.to_owned(), file, kept })
    }

    /// The answer to a question that was asked before.
    #[must_use]
    pub fn get(&self, hash: &str) -> Option<&Answer> {
        self.kept.get(hash)
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&mut self, kept: Kept) -> anyhow::Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&kept)?).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.file.flush()?;
        self.kept.insert(kept.prompt_hash, kept.answer);
        Ok(())
    }
}

/// sha256 of model and prompt.
#[must_use]
pub fn prompt_hash(model: &str, prompt: &str) -> String {
    let mut hash = Sha256::new();
    hash.update((model.len() as u64).to_le_bytes());
    hash.update(model.as_bytes());
    hash.update(prompt.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_and_a_line_cut_off_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let kept = |prompt: &str| Kept {
            prompt_hash: prompt_hash("m", prompt),
            model: "m".into(),
            prompt: prompt.into(),
            answer: Answer { text: "War".into(), ..Answer::default() },
            at_ms: 1,
        };
        let mut answers = Answers::open(&path).unwrap();
        answers.keep(kept("a")).unwrap();
        answers.keep(kept("b")).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let mut again = Answers::open(&path).unwrap();
        assert!(again.get(&prompt_hash("m", "a")).is_some() && again.get(&prompt_hash("m", "b")).is_none());
        again.keep(kept("b")).unwrap();
        drop(again);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(prompt_hash("m", "a") != prompt_hash("n", "a") && prompt_hash("m", "a") != prompt_hash("m", "b"));
    }
}
