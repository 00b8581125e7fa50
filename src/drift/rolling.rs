//! A rolling reference: the last windows that nothing was in alert in, fitted anew from time to time.
//!
//! For data that is never at rest (a news feed), where a fixed reference alarms every week after months.
//! What it costs: a change slow enough to stay below the test while the reference follows it is never
//! told. So it is frozen while anything is in alert: a change that was found cannot become the reference
//! by itself, an operator accepts it or it ends.

use std::collections::VecDeque;

use crate::drift::closed::ALL;
use crate::drift::report::{DriftReport, StreamState, Verdict};

/// How the name of a reference begins that goes on with the evidence of the one before.
pub const ROLLING_PREFIX: &str = "rolling-";
/// A reference of n windows is fitted anew each n/14 windows: daily, where it is of 14 days.
const PARTS: usize = 14;

/// The windows of the next reference; `W` as they are kept, live or from a file.
#[derive(Clone, Debug)]
pub struct Rolling<W> {
    span: usize,
    every: usize,
    recent: VecDeque<W>,
    new: usize,
    frozen: bool,
}

impl<W> Rolling<W> {
    /// Starts from the first reference's windows; `span` of them make a reference.
    #[must_use]
    pub fn new(span: usize, first: impl IntoIterator<Item = W>) -> Self {
        let span = span.max(1);
        let mut this = Self { span, every: (span / PARTS).max(1), recent: first.into_iter().collect(), new: 0, frozen: false };
        this.forget();
        this
    }

    /// A window that was judged.
    ///
    /// | the window                                 | kept | a new reference may be fitted |
    /// |--------------------------------------------|------|-------------------------------|
    /// | no verdict on `_all`                       | no   | as before                     |
    /// | a stream of any segment in ALERT           | no   | no                            |
    /// | any other                                  | yes  | yes                           |
    pub fn push(&mut self, window: W, report: &DriftReport) {
        if !report.segments.iter().any(|segment| segment.segment == ALL && segment.verdict == Verdict::Judged) {
            return;
        }
        let in_alert = |state: StreamState| state == StreamState::Alert;
        self.frozen = report.segments.iter().flat_map(|segment| &segment.streams).any(|stream| in_alert(stream.state));
        if !self.frozen {
            self.recent.push_back(window);
            self.new += 1;
            self.forget();
        }
    }

    /// The windows of a new reference, when it is time for one.
    pub fn due(&mut self) -> Option<&[W]> {
        if self.frozen || self.new < self.every || self.recent.len() < self.span {
            return None;
        }
        self.new = 0;
        Some(self.recent.make_contiguous())
    }

    /// The windows it holds.
    pub fn windows(&mut self) -> &[W] {
        self.recent.make_contiguous()
    }

    fn forget(&mut self) {
        while self.recent.len() > self.span {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::report::{SegmentReport, StreamReport};
    use crate::drift::stream::StreamId;

    fn report(verdict: Verdict, state: StreamState) -> DriftReport {
        let stream = StreamReport {
            stream: StreamId::DeadRecord,
            state,
            evidence_log: 0.0,
            threshold_log: 1.0,
            count: 1.0,
            expected: 1.0,
            exposure: 1.0,
            dispersion: 1.0,
            ratio: 1.0,
            ratio_low: 1.0,
            ratio_high: 1.0,
            mde_ratio: 1.0,
        };
        let segment = SegmentReport {
            segment: ALL.to_owned(),
            verdict,
            why: None,
            records: 1,
            entities: 1,
            units: None,
            parts: Vec::new(),
            streams: vec![stream],
            concentration: None,
            session_mix: None,
            contract: Default::default(),
            psi: None,
            js: None,
        };
        DriftReport { start_ms: 0, end_ms: 1, model_version: String::new(), reference: None, segments: vec![segment], changes: Vec::new() }
    }

    #[test]
    fn it_moves_on_and_is_frozen_while_anything_is_in_alert() {
        let quiet = report(Verdict::Judged, StreamState::Ok);
        let mut rolling = Rolling::new(28, 0..28);
        rolling.push(28, &quiet);
        assert_eq!(rolling.due(), None, "two windows of 28 are a fourteenth");
        rolling.push(29, &quiet);
        assert_eq!(rolling.due().map(|windows| (windows[0], windows.len())), Some((2, 28)));
        assert_eq!(rolling.due(), None);
        for t in 30..40 {
            rolling.push(t, &report(Verdict::Judged, StreamState::Alert));
            assert_eq!(rolling.due(), None, "frozen");
        }
        rolling.push(40, &report(Verdict::NoData, StreamState::Ok));
        rolling.push(41, &quiet);
        rolling.push(42, &quiet);
        assert_eq!(rolling.due().and_then(|windows| windows.last().copied()), Some(42));
    }
}
