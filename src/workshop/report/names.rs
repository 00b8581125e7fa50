//! Names of streams by model version, as the caller's bundles give them.

use std::collections::BTreeMap;

use crate::drift::closed::counted_version;
use crate::drift::stream::StreamId;

/// Name and verification of every stream, by model version.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, BTreeMap<StreamId, (String, String)>>);

impl Names {
    /// Adds a model version's names.
    pub fn insert(&mut self, model_version: &str, names: BTreeMap<StreamId, (String, String)>) {
        self.0.insert(model_version.to_owned(), names);
    }

    /// Name and verification; of a model whose bundle is not at hand, the stream's own.
    #[must_use]
    pub fn of(&self, model_version: &str, stream: StreamId) -> (String, String) {
        let known = self.0.get(counted_version(model_version)).and_then(|names| names.get(&stream)).cloned();
        known.unwrap_or_else(|| (stream.to_string().replace([':', '_'], " "), "unnamed".to_owned()))
    }
}
