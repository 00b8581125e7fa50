//! What an alert is explained by beside its numbers: records, who carries it, what is shown with it.
//!
//! An explanation is made from the records of the windows around the change point, once the alert is on the
//! record; nothing of it is counted while windows are open, and no verdict depends on it. It is kept with the
//! alert, proved by the chain, and goes when retention takes the windows it was read from.

use serde::{Deserialize, Serialize};

use crate::drift::alert::rfc3339;
use crate::drift::carriers::Carriers;
use crate::drift::report::SegmentReport;
use crate::record::TopicPartition;
use crate::sae::latent::LatentId;

/// Why an alert was raised, as far as the record and the records say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The reference the alert was judged against; null where the store no longer has it.
    pub reference: Option<ReferenceAge>,
    /// The segment in the window that opened the alert.
    pub described: Described,
    /// What the records around the change point show; null where they could not be read.
    pub records: Option<RecordEvidence>,
    /// Why they could not; null where they could.
    pub unread: Option<String>,
}

/// How old the reference was when the alert was raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceAge {
    /// Its name.
    pub name: String,
    /// First instant of its first window.
    #[serde(with = "rfc3339")]
    pub from: i64,
    /// One past the last instant of its last.
    #[serde(with = "rfc3339")]
    pub to: i64,
    /// Windows in it.
    pub windows: i64,
    /// From its end to the alert, hours.
    pub age_hours: i64,
}

/// A segment's window in numbers that describe and never alarm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// Records counted.
    pub records: u64,
    /// Entities counted; 0 when counting records.
    pub entities: u64,
    /// PSI over latents.
    pub psi: Option<f64>,
    /// What PSI is on average with no change at all, at this volume.
    pub psi_noise_floor: Option<f64>,
    /// Jensen-Shannon divergence, nats.
    pub js: Option<f64>,
    /// The same floor of it.
    pub js_noise_floor: Option<f64>,
    /// Concentration factor.
    pub concentration: Option<f64>,
    /// Mix distance of the session lengths.
    pub session_mix: Option<f64>,
}

impl Described {
    /// The numbers of a segment's report.
    #[must_use]
    pub fn of(report: &SegmentReport) -> Self {
        let (psi, js) = (report.psi, report.js);
        Self {
            records: report.records,
            entities: report.entities,
            psi: psi.map(|(value, _)| value),
            psi_noise_floor: psi.map(|(_, floor)| floor),
            js: js.map(|(value, _)| value),
            js_noise_floor: js.map(|(_, floor)| floor),
            concentration: report.concentration,
            session_mix: report.session_mix,
        }
    }
}

/// What the records show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordEvidence {
    /// The windows before the change point.
    pub before: Stretch,
    /// Those since.
    pub after: Stretch,
    /// Entities that carry the change; null where entities are not told apart.
    pub entities: Option<Carriers>,
    /// Recommended items that do; null where the records name none.
    pub items: Option<Carriers>,
    /// Latents that are shown in the same records more often than chance has it, the surest first.
    pub shown_with: Vec<ShownWith>,
}

/// Records of one side of the change point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Start of the first window read; with `to` equal: no window was.
    #[serde(with = "rfc3339")]
    pub from: i64,
    /// End of the last.
    #[serde(with = "rfc3339")]
    pub to: i64,
    /// Records of the segment that were read.
    pub records: u64,
    /// Times the stream was shown in them: for a family, once for each member.
    pub shown: u64,
    /// Whether only a part of the windows' records was read, because there are too many.
    pub is_part: bool,
    /// Records that show the stream, one each of entities drawn by their hash.
    pub examples: Vec<Example>,
}

/// One record that shows the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Where it lies.
    #[serde(flatten)]
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Salted hash of its entity, hexadecimal.
    pub entity: Option<String>,
    /// What was recommended; at most ten.
    pub items: Vec<String>,
    /// Activation of the latent (of a family: the strongest member's); null for pseudo-streams.
    pub activation: Option<f32>,
}

/// A latent that is shown together with the stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownWith {
    /// Which.
    pub latent: LatentId,
    /// Share of the stream's records, after the change, that show it too.
    pub share: f64,
    /// That over its share in all records read after the change.
    pub lift: f64,
}
