//! What is in alert and yet not told by itself: muted alerts, and parts of a family or dense shift.
//!
//! The state stays 2, so that nothing looks well that is not; the rules leave these out
//! (`unless on (..)`). A mute is exported as its end, because a scrape's text does not know the time.

use std::collections::BTreeMap;

use crate::drift::alert::{ActionKind, Alert};
use crate::drift::grouping::DENSE_SHIFT;
use crate::drift::report::AlertState;
use crate::metrics::text::{Text, count, labels, seconds};
use crate::snapshot::Snapshot;

pub(super) fn quiet_series(text: &mut Text, snapshot: &Snapshot) {
    text.gauge("recsae_concept_muted_until_timestamp_seconds", "End of the mute of a firing alert, Unix time: nobody is told before.");
    for (alert, until_ms) in snapshot.alerts.iter().filter_map(|alert| Some((alert, muted_until(alert)?))) {
        let opened = &alert.opened;
        text.series(&stream(&opened.model_version, &opened.segment, &opened.stream.to_string()), seconds(until_ms));
    }
    let reports = || snapshot.models.iter().filter_map(|model| Some((model, model.report.as_ref()?)));
    let segments = || reports().flat_map(|(model, report)| report.segments.iter().map(|segment| (&model.model_version, segment)));
    text.gauge("recsae_concept_part_of", "1 for a stream in alert that is told with a larger alert: a family, or a dense shift.");
    for (model, segment) in segments() {
        for (part, of) in &segment.parts {
            let (name, of) = (part.to_string(), of.as_str());
            text.series(&labels(&[("model_version", model), ("segment", &segment.segment), ("stream", &name), ("of", of)]), 1.0);
        }
    }
    text.gauge("recsae_dense_shift", "Streams in alert that are told as one dense shift of the segment.");
    let mut dense: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for (model, segment) in segments() {
        let n = segment.parts.iter().filter(|(_, of)| of == DENSE_SHIFT).count();
        dense.extend((n > 0).then_some(((model.as_str(), segment.segment.as_str()), count(n as u64))));
    }
    for ((model, segment), n) in dense {
        text.series(&labels(&[("model_version", model), ("segment", segment)]), n);
    }
}

fn stream(model: &str, segment: &str, stream: &str) -> String {
    labels(&[("model_version", model), ("segment", segment), ("stream", stream)])
}

/// End of the newest mute of a firing alert.
fn muted_until(alert: &Alert) -> Option<i64> {
    let mute = alert.actions.iter().rev().find(|action| action.action == ActionKind::Mute)?;
    mute.until_ms.filter(|_| alert.state == AlertState::Firing)
}
