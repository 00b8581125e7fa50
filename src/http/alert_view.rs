//! One alert with all that explains it: `/api/v1/alerts/{id}`, `alerts show`, and the page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drift::alert::{Alert, AlertListing};
use crate::drift::explanation::Explanation;
use crate::drift::stream::StreamId;
use crate::http::views;
use crate::snapshot::Snapshot;

/// An alert as listed, and its explanation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertDetail {
    /// As every listing prints it.
    #[serde(flatten)]
    pub alert: AlertListing,
    /// What explains it; null while it is not made yet (some seconds), and once retention took it.
    pub explanation: Option<Explanation>,
    /// Names of the other streams it mentions.
    pub names: BTreeMap<StreamId, String>,
}

impl AlertDetail {
    /// The alert under the names of the snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot, alert: &Alert, explanation: Option<Explanation>) -> Self {
        let listing = views::alert(snapshot, alert);
        let records = explanation.as_ref().and_then(|explanation| explanation.records.as_ref());
        let shown_with = records.into_iter().flat_map(|records| &records.shown_with).map(|shown| StreamId::Latent(shown.latent));
        let streams = listing.moved_with.iter().map(|moved| moved.stream).chain(shown_with);
        let known = streams.filter(|_| snapshot.names_hold_for(alert));
        let names = known.map(|stream| (stream, snapshot.name_in(&listing.model_version, stream).name)).collect();
        Self { alert: listing, explanation, names }
    }

    /// Name of a stream it mentions.
    #[must_use]
    pub fn name_of(&self, stream: StreamId) -> String {
        self.names.get(&stream).cloned().unwrap_or_else(|| stream.to_string())
    }
}
