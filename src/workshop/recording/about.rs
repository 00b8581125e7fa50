//! What a recording says of itself, in `recording.json`: its name, and what must stay the same in all its files.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// Name of the file in the folder.
const ABOUT: &str = "recording.json";

/// What all files of a recording have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Drawn once: a folder that was emptied begins another recording, whatever the group of the old one has read.
    pub id: String,
    /// Share of the entities that are kept.
    pub entities: f64,
    /// Segment fields.
    pub fields: Vec<String>,
}

impl About {
    /// The recording in `folder`, begun now where there is none.
    ///
    /// # Errors
    /// The folder holds a recording of another share or other fields, or cannot be read or written.
    pub fn of(folder: &Path, entities: f64, fields: &[String]) -> anyhow::Result<Self> {
        let path = folder.join(ABOUT);
        let asked = Self { id: format!("{:08x}", rand::random::<u32>()), entities, fields: fields.to_vec() };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::write(&path, serde_json::to_vec_pretty(&asked)?).with_context(|| path.display().to_string())?;
                return Ok(asked);
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let found: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not of this recsae: record into another folder", path.display()))?;
        let same = Self { id: found.id.clone(), ..asked };
        ensure!(
            found == same,
            "{} holds a recording of {} of the entities with the fields {:?}, asked for are {} and {:?}: record into another folder",
            folder.display(),
            found.entities,
            found.fields,
            same.entities,
            same.fields
        );
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_recording_and_refuses_another() {
        let folder = tempfile::tempdir().unwrap();
        let of = |share: f64, fields: &[&str]| About::of(folder.path(), share, &fields.iter().map(ToString::to_string).collect::<Vec<_>>());
        let first = of(0.1, &["surface"]).unwrap();
        assert_eq!(of(0.1, &["surface"]).unwrap(), first);
        let words = of(0.2, &["surface"]).unwrap_err().to_string();
        assert!(words.contains("0.1 of the entities") && words.contains("another folder"), "{words}");
        assert!(of(0.1, &[]).is_err());
        std::fs::remove_file(folder.path().join(ABOUT)).unwrap();
        assert_ne!(of(0.1, &["surface"]).unwrap().id, first.id, "emptied: another recording");
    }
}
