//! Every answer, kept: a run that was cut off goes on where it was, and what was asked can be looked up.
//!
//! One JSON line an answer, appended and flushed as it comes. The key is the hash of model and prompt, so
//! that another template or another model asks anew.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::workshop::label::llm::client::Answer;

/// What a line begins with.
const BEGINNING: &[u8] = b"{\"prompt_hash\":\"";

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
    /// Opens the file, or begins it. A last line that was cut off is taken away, and asked again: left there it would
    /// stand in the middle of the file the time after.
    ///
    /// # Errors
    /// It cannot be read or written, or a whole line is no answer: then nothing of the file is changed.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(cannot)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut kept = HashMap::new();
        for (at, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let found: Kept = serde_json::from_slice(line).with_context(|| format!("line {} of {}", at + 1, path.display()))?;
            kept.insert(found.prompt_hash, found.answer);
        }
        let rest = &bytes[whole..];
        if !rest.is_empty() {
            let is_of_an_answer = rest.starts_with(BEGINNING) || BEGINNING.starts_with(rest);
            ensure!(is_of_an_answer, "{}: its last line is not the beginning of an answer: give another file", path.display());
            file.set_len(whole as u64).with_context(cannot)?;
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
        let line = serde_json::to_string(&kept)? + "\n";
        self.file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))?;
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
        answers.keep(kept("π")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let before_last = std::fs::read_to_string(&path).unwrap().lines().take(2).map(|line| line.len() + 1).sum();
        // Wherever it was cut, within a letter or before the end of the line too, and however often.
        for length in before_last..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            for _ in 0..2 {
                let mut again = Answers::open(&path).unwrap();
                assert!(again.get(&prompt_hash("m", "a")).is_some() && again.get(&prompt_hash("m", "b")).is_some());
                if again.get(&prompt_hash("m", "π")).is_none() {
                    again.keep(kept("π")).unwrap();
                }
            }
            assert!(std::fs::read(&path).unwrap() == whole, "cut at {length}");
        }
        assert!(prompt_hash("m", "a") != prompt_hash("n", "a") && prompt_hash("m", "a") != prompt_hash("m", "b"));
    }

    #[test]
    fn another_file_is_not_taken_for_one_of_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("concepts.json");
        for (other, says) in [("{\n}\nand a rest", "line 1 of"), ("{\"concepts\": {}}", "its last line")] {
            std::fs::write(&path, other).unwrap();
            assert!(format!("{:#}", Answers::open(&path).unwrap_err()).contains(says));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
    }
}
